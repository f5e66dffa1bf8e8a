"""The Python API: load a model once, separate arrays, streams and files with it."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.channels import channel_groups, describe_groups
from unmixcli.audio.decode import AudioInfo, open_audio, probe
from unmixcli.audio.tags import read_tags
from unmixcli.chain import set_up
from unmixcli.chain_run import Cast, separate_chain
from unmixcli.device import choose_device, device_title
from unmixcli.errors import InputError, OptionError
from unmixcli.members import Member
from unmixcli.models.augmented import Augmented
from unmixcli.naming import target_paths
from unmixcli.options import Format, Options
from unmixcli.pipeline import Report, Source
from unmixcli.progress import Progress, ProgressCallback, ignore_progress
from unmixcli.runner import Runner
from unmixcli.sinks import ArraySink, Encoding, FileSink, Tagging
from unmixcli.stems import MIXTURE, Output, StemPlan

Block = NDArray[np.float32]

# NI Stems files have four tracks in this order (Native Instruments, "Stem file specification", 2015).
STEM_FILE_ORDER = ("drums", "bass", "other", "vocals")


@dataclass(frozen=True)
class Separation:
    """The result for one input.

    Attributes:
        source: the input's name.
        model: registry name of the model used.
        device: what it ran on, in words.
        sample_rate: Hz.
        stems: output name -> [C, T] float32, where the result was asked for in memory; else empty.
        files: output name -> path, where it was written.
        duration: seconds of each output.
        residual_db: level of what the stems left over, relative to the mixture; None where it isn't known.
        gain_db: the common gain of all outputs, 0 unless peaks had to be kept below full scale.
        notes: what was done otherwise than one might think, in plain sentences.
    """

    source: str
    model: str
    device: str
    sample_rate: int
    stems: Mapping[str, Block] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    duration: float = 0.0
    residual_db: float | None = None
    gain_db: float = 0.0
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------- sources


@dataclass(frozen=True)
class FileSource:
    """An audio file as the pipeline's source."""

    info: AudioInfo
    name: str
    notes: list[str] = field(default_factory=list)

    @property
    def sample_rate(self) -> int:
        return self.info.sample_rate

    @property
    def channels(self) -> int:
        return self.info.channels

    @property
    def channel_layout(self) -> str | None:
        return self.info.channel_layout

    @property
    def duration(self) -> float | None:
        return self.info.duration

    def blocks(self) -> Iterator[Block]:
        with open_audio(self.info.path, track=self.info.track) as decoder:
            try:
                yield from decoder
            finally:  # what is unusual about a file may show only while it is read
                self.notes.extend(note for note in decoder.info.notes if note not in self.notes)


@dataclass(frozen=True)
class ArraySource:
    """An array [C, T] as the pipeline's source."""

    samples: Block
    sample_rate: int
    name: str = "array"
    channel_layout: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def duration(self) -> float:
        return float(self.samples.shape[1] / self.sample_rate)

    def blocks(self) -> Iterator[Block]:
        step = 65536
        for start in range(0, self.samples.shape[1], step):
            yield self.samples[:, start : start + step]


@dataclass(frozen=True)
class StreamSource:
    """Blocks that come once, as the pipeline's source."""

    stream: Iterable[Block]
    sample_rate: int
    channels: int
    channel_layout: str | None = None
    duration: float | None = None
    name: str = "stream"

    def blocks(self) -> Iterator[Block]:
        for block in self.stream:
            samples = np.asarray(block, dtype=np.float32)
            if samples.ndim != 2 or samples.shape[0] != self.channels:
                raise InputError(f"a block has the shape {samples.shape}, expected [{self.channels}, T].")
            if not np.isfinite(samples).all():
                raise InputError("a block holds values that are not numbers (NaN or infinity).")
            if samples.shape[1]:
                # A caller may fill the same buffer again while this one still waits in a queue.
                yield samples.copy()


# ---------------------------------------------------------------- the separator


class Separator:
    """A model, ready to separate as often as needed; usable from several threads at once.

    Args:
        model: registry name or alias, or "auto".
        options: all knobs at once; `fields` are laid over them.
        on_progress: told of downloads, passes and warnings.
        fields: any field of `Options` by name.

    The model is chosen here; its weights are loaded by the first separation, only those that the stems asked need.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        options: Options | None = None,
        on_progress: ProgressCallback = ignore_progress,
        **fields: Any,
    ) -> None:
        self.options = _merged(options, model, fields)
        self.on_progress = on_progress
        self.device = choose_device(self.options.device)
        self.setup = set_up(self.options, on_progress=on_progress)
        self.entry, self.plan = self.setup.entry, self.setup.plan
        warning = self.setup.warning
        self.warnings: tuple[str, ...] = (warning,) if warning else ()
        if warning:
            on_progress(Progress("warning", self.entry.name, message=warning))
        self._loading = threading.Lock()
        self._runners: tuple[Runner, ...] = ()
        self._runner_notes: list[str] = []

    @property
    def members(self) -> tuple[Member, ...]:
        """The models that are run, with what each needs."""
        return tuple(member for stage in self.setup.stages for member in stage.lineup.members)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the files of `entry` that this separation needs."""
        if len(self.members) == 1:
            return self.members[0].parts
        return tuple(f"{member.entry.name}.{part}" for member in self.members for part in member.parts)

    @property
    def runners(self) -> tuple[Runner, ...]:
        """The models on their device, loaded at first use."""
        with self._loading:
            if not self._runners:
                self._runners = tuple(self._runner_of(member) for member in self.members)
            return self._runners

    @property
    def runner(self) -> Runner:
        """The first of `runners`."""
        return self.runners[0]

    def _runner_of(self, member: Member) -> Runner:
        model = member.load(offline=self.options.offline, on_progress=self.on_progress)
        return Runner(
            Augmented(model) if self.options.tta else model,
            self.device,
            precision=self.options.precision,
            batch_size=self.options.batch_size,
            tell=self._tell,
        )

    def _separated(
        self, source: Source, plan: StemPlan, report: Report, on_progress: ProgressCallback
    ) -> Iterator[dict[str, Block]]:
        """The outputs of a source, block by block."""
        left = iter(self.runners)
        casts = [Cast(stage, tuple(itertools.islice(left, len(stage.lineup.members)))) for stage in self.setup.stages]
        if len(casts) == 1:
            return casts[0].run(source, plan, self.options, report=report, on_progress=on_progress)
        return separate_chain(source, casts, plan, self.options, report=report, on_progress=on_progress)

    def _tell(self, message: str) -> None:
        self._runner_notes.append(message)
        self.on_progress(Progress("warning", self.entry.name, message=message))

    # ------------------------------------------------------------ in memory

    def separate(self, source: str | os.PathLike[str] | Block, *, sample_rate: int | None = None) -> Separation:
        """Separate a file or an array, results in memory.

        Args:
            source: a path, or samples [C, T] ([T] is mono), nominally -1…1.
            sample_rate: Hz, with an array.

        Raises:
            InputError: the file can't be read, or the array isn't audio.
        """
        found = self._source(source, sample_rate)
        report, sink = Report(), ArraySink()
        for outputs in self._separated(found, self.plan, report, self.on_progress):
            sink.write(outputs)
        return self._result(found, report, stems=sink.arrays(self.plan.names, found.channels))

    def stream(
        self, blocks: Iterable[Block], *, sample_rate: int, channels: int, channel_layout: str | None = None
    ) -> Iterator[dict[str, Block]]:
        """Separate a stream: blocks [C, T] of any lengths in, {output name: [C, T]} out, as soon as they are ready.

        The blocks out have other lengths than those in; together they have exactly the same length.

        Raises:
            OptionError: the model needs a first pass over the whole track.
        """
        needy = [
            m.entry.name for m, r in zip(self.members, self.runners, strict=True) if r.model.normalization != "none"
        ]
        if needy:
            raise OptionError(
                f"{needy[0]} needs the mean and level of the whole track before it starts; a stream can't be "
                "read twice.",
                hint="use separate() with a file or an array.",
            )
        source = StreamSource(blocks, sample_rate, channels, channel_layout)
        return self._separated(source, self.plan, Report(), self.on_progress)

    # ------------------------------------------------------------ to files

    def separate_to_files(
        self,
        path: str | os.PathLike[str],
        targets: Mapping[str, Path],
        *,
        name: str | None = None,
        overwrite: bool | None = None,
        commit: bool = True,
        on_progress: ProgressCallback | None = None,
    ) -> tuple[Separation, FileSink]:
        """Separate a file into files.

        Args:
            path: the input.
            targets: output name -> path, of `targets_for`.
            name: what the input is called in titles and messages; None: its file name.
            overwrite: replace files that exist; None: as the options say.
            commit: give the files their names; False leaves that (or `abort`) to the caller.
            on_progress: told of this file's progress instead of the separator's callback.

        Returns:
            The result, and the sink that holds the finished files.
        """
        info = probe(path, track=self.options.track)
        source = FileSource(info, name or Path(info.path).name)
        report = Report()
        replacing = self.options.overwrite if overwrite is None else overwrite
        sink = self.open_sink(Path(path), source, targets, overwrite=replacing)
        try:
            outputs = self._separated(source, self._file_plan(), report, on_progress or self.on_progress)
            for block in self.finish(outputs, info):
                sink.write(block)
            if report.written == 0:
                raise InputError(f"{source.name}: there is no audio in it.", hint="check the file with a player.")
            sink.prepare()
            result = self._result(source, report, files=sink.targets, sink=sink)
            if commit:
                sink.commit()
        except BaseException:
            sink.abort()
            raise
        return result, sink

    # What another kind of result (see `karaoke.py`) does in its own way.

    def encoding(self, info: AudioInfo) -> Encoding:
        """How the results of an input are written."""
        return encoding_for(info, self.options)

    def open_sink(self, path: Path, source: FileSource, targets: Mapping[str, Path], *, overwrite: bool) -> FileSink:
        """The files of an input, open for writing."""
        title = read_tags(path).get("title") or Path(source.name).stem
        changes = {name: {"title": f"{title} ({name})"} for name in self.plan.names}
        changes[MIXTURE] = {"title": title}
        return FileSink(
            targets,
            self.encoding(source.info),
            tagging=Tagging(path, changes),
            stem_names=STEM_FILE_ORDER if self.options.format == "stem.mp4" else (),
            overwrite=overwrite,
        )

    def finish(self, outputs: Iterator[dict[str, Block]], info: AudioInfo) -> Iterator[dict[str, Block]]:
        """The last stage before the files: nothing, here."""
        return outputs

    def targets_for(self, path: Path, folder: Path, *, track: str | None = None) -> dict[str, Path]:
        """Output name -> path of the finished file, for an input.

        Args:
            path: the input, for its tags.
            folder: all results lie inside.
            track: word for {track}; None: the input's name without its suffix.
        """
        from unmixcli.audio.encode import SUFFIX

        format_ = self.options.format or "wav"
        template = self.options.template
        names: tuple[str, ...] = self.plan.names
        if format_ == "stem.mp4":
            self._file_plan()  # says now what can't be
            names = (MIXTURE,)
            template = "{track}" if template == "{track}/{stem}" else template
        needs_tags = any(f"{{{name}}}" in template for name in ("artist", "title", "album"))
        return target_paths(
            folder,
            template,
            names,
            track=track or path.stem,
            model=self.entry.name,
            suffix=SUFFIX[format_],
            tags=read_tags(path) if needs_tags else {},
        )

    def _file_plan(self) -> StemPlan:
        if self.options.format != "stem.mp4":
            return self.plan
        missing = [name for name in STEM_FILE_ORDER if name not in self.plan.names]
        if missing or len(self.plan.names) != len(STEM_FILE_ORDER):
            raise OptionError(
                f"a .stem.mp4 holds exactly {', '.join(STEM_FILE_ORDER)}; "
                f"{self.entry.name} would give {', '.join(self.plan.names)}.",
                hint="choose a model with these four stems and leave --stems out.",
            )
        return replace(self.plan, outputs=(Output(MIXTURE, {MIXTURE: 1.0}), *self.plan.outputs))

    # ------------------------------------------------------------ small parts

    def _source(self, source: str | os.PathLike[str] | Block, sample_rate: int | None) -> FileSource | ArraySource:
        if isinstance(source, (str, os.PathLike)):
            return FileSource(probe(source, track=self.options.track), Path(source).name)
        samples = np.atleast_2d(np.asarray(source, dtype=np.float32))
        if sample_rate is None or sample_rate <= 0:
            raise InputError(f"sample_rate is {sample_rate}, expected the array's rate in Hz.")
        if samples.ndim != 2 or samples.shape[0] > 64:
            raise InputError(
                f"the array has the shape {samples.shape}, expected [channels, samples].",
                hint="transpose it if it is [samples, channels].",
            )
        if not np.isfinite(samples).all():
            raise InputError("the array holds values that are not numbers (NaN or infinity).")
        return ArraySource(samples, sample_rate)

    def _result(
        self,
        source: FileSource | ArraySource,
        report: Report,
        *,
        stems: Mapping[str, Block] | None = None,
        files: Mapping[str, Path] | None = None,
        sink: FileSink | None = None,
    ) -> Separation:
        notes = [*self.warnings, *source.notes]
        groups = channel_groups(source.channels, source.channel_layout, model_channels=self.runner.model.channels)
        said = describe_groups(groups, source.channels, source.channel_layout)
        notes += [said] if said else []
        notes += [self.plan.note] if self.plan.note else []
        notes += [*self._runner_notes, *(sink.notes if sink else [])]
        return Separation(
            source=source.name,
            model=self.entry.name,
            device=device_title(self.runner.device),
            sample_rate=source.sample_rate,
            stems=stems or {},
            files=dict(files or {}),
            duration=(sink.frames if sink else report.written) / source.sample_rate,
            residual_db=report.residual_db,
            gain_db=20 * float(np.log10(sink.gain)) if sink else 0.0,
            notes=tuple(dict.fromkeys(notes)),
        )


def separate(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    options: Options | None = None,
    on_progress: ProgressCallback = ignore_progress,
    **fields: Any,
) -> Separation:
    """Separate one file into files, as `unmix FILE -o OUTPUT` does.

    Args:
        source: the input file.
        output: folder for the results; None: `separated` in the current folder.
        model: registry name or alias, or "auto".
        options: all knobs at once; `fields` are laid over them.
        on_progress: told of downloads, progress and warnings.
        fields: any field of `Options` by name.

    Raises:
        UnmixError: what went wrong, with a hint; nothing half-written is left.
    """
    merged = _merged(options, model, fields)
    folder = Path(output if output is not None else merged.output or "separated")
    separator = Separator(options=merged, on_progress=on_progress)
    path = Path(source)
    result, _ = separator.separate_to_files(path, separator.targets_for(path, folder))
    return result


def encoding_for(info: AudioInfo, options: Options) -> Encoding:
    """How results of this input are written: as the input, or as asked.

    A lossy input stores no sample type: wav and aiff then get floats, which keep any level, flac and alac 24 bits.
    """
    format_: Format = options.format or "wav"
    asked = {"16": "s16", "24": "s24", "32f": "f32"}.get(options.bit_depth or "")
    own = "s24" if info.lossy and format_ in ("flac", "alac") else info.sample_type
    return Encoding(
        format_,
        info.sample_rate,
        info.channels,
        asked or own,
        options.bitrate,
        options.clipping,
        info.channel_layout,
    )


def _merged(options: Options | None, model: str | None, fields: Mapping[str, Any]) -> Options:
    changes = {**fields, **({} if model is None else {"model": model})}
    unknown = sorted(set(changes) - set(Options.names()))
    if unknown:
        raise OptionError(f"{unknown[0]!r} is not an option; options are {', '.join(Options.names())}.")
    return replace(options or Options(), **changes)
