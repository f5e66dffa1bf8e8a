"""A finished karaoke track: the song without its lead vocal, in the format of the song.

    karaoke = mixture - (1 - g) · vocals        g = 10^(guide / 20), 0 without a guide

so the vocal that stays lies `guide` dB under its old level, and with 0 dB the song comes back. Where the backing vocals
are kept, `vocals` is the lead alone. Key and tempo are changed after that (`audio/pitch_tempo.py`). A video keeps its
pictures packet by packet (`audio/remux.py`); where the tempo changes their times change with it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unmixcli.audio.decode import AudioInfo, probe
from unmixcli.audio.encode import DEFAULT_BITRATES, SUFFIX, check_channels, plan_rate
from unmixcli.audio.pitch_tempo import PitchTempo, check_pitch_tempo, pitch_tempo_blocks
from unmixcli.audio.remux import VIDEO_CONTAINERS, audio_format_for, remux_video
from unmixcli.audio.tags import read_tags
from unmixcli.errors import OptionError, OutputError
from unmixcli.naming import safe_name
from unmixcli.options import Format, Options
from unmixcli.pipeline import Block
from unmixcli.progress import ProgressCallback, ignore_progress
from unmixcli.separator import FileSource, Separation, Separator, encoding_for
from unmixcli.sinks import Encoding, FileSink, Tagging, part_path
from unmixcli.stems import MIXTURE, Output, StemPlan

STEM = "karaoke"
LEAD = "lead_vocals"
# A guide below this is silence in 24 bits.
LOWEST_GUIDE = -120.0

# Suffixes of a format that are kept as they are; another gets the format's own.
_SUFFIXES: dict[str, frozenset[str]] = {
    "wav": frozenset({".wav", ".wave", ".bwf"}),
    "flac": frozenset({".flac"}),
    "aiff": frozenset({".aif", ".aiff", ".aifc"}),
    "mp3": frozenset({".mp3"}),
    "ogg": frozenset({".ogg", ".oga"}),
    "opus": frozenset({".opus", ".ogg", ".oga"}),
    "m4a": frozenset({".m4a", ".m4b", ".mp4"}),
    "alac": frozenset({".m4a", ".m4b", ".mp4"}),
}
# Where the input's format can't be written: by codec, else AAC for lossy ones and FLAC for the others.
_BY_CODEC: dict[str, Format] = {"opus": "opus", "vorbis": "ogg", "mp3": "mp3", "mp3float": "mp3", "alac": "alac"}
_UNPACKED = ("wav", "rf64", "w64", "au", "caf", "snd", "avi")
# kbit/s for stereo below which a second lossy encoding is heard.
_LEAST_BITRATE = {"mp3": 192, "m4a": 192, "ogg": 192, "opus": 128}
# Layer III, MPEG 1 (ISO/IEC 11172-3); lower sample rates have fewer, and the encoder takes the nearest.
_MP3_BITRATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)


@dataclass(frozen=True)
class KaraokeOptions(Options):
    """Options, and what karaoke adds.

    Attributes:
        keep_backing: leave the backing vocals in and take out the lead alone, with models that tell them apart.
        guide: level of the lead vocal that stays in, in dB of its own (0 leaves it as it is); None takes it out.
        key: change of key in semitones, fractions are fine.
        tempo: 0.9 plays at nine tenths of the speed.
    """

    keep_backing: bool = False
    guide: float | None = None
    key: float = 0.0
    tempo: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide is not None and not LOWEST_GUIDE <= self.guide <= 0:
            raise OptionError(
                f"the guide is {self.guide:g} dB, expected {LOWEST_GUIDE:g} to 0.",
                hint="-18 is a quiet guide, 0 leaves the vocal as it is.",
            )
        check_pitch_tempo(self.key, self.tempo)
        if self.stems or self.minus:
            raise OptionError("karaoke always leaves out the vocals; stems and minus are for separate.")
        if self.format == "stem.mp4":
            raise OptionError("a karaoke track is one track; a .stem.mp4 holds four.")
        if self.residual == "file":
            raise OptionError("residual is 'file', but a karaoke track is one file.")


def parse_guide(text: str) -> float | None:
    """A guide's level: "-18dB", "-18 dB", "-18", or "off" for none.

    Raises:
        OptionError: none of these.
    """
    words = text.strip().lower().replace("\N{MINUS SIGN}", "-")
    if words in ("off", "none", "-inf", "-inf db", "-infdb"):
        return None
    number = re.fullmatch(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*(?:db)?", words)
    if number is None:
        raise OptionError(f"the guide is {text!r}, expected a level in dB such as -18dB, or off.")
    return float(number[1])


def parse_tempo(text: str) -> float:
    """A tempo: "0.9", "90%" or "0.9x".

    Raises:
        OptionError: none of these.
    """
    number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([%x]?)", text.strip().lower())
    if number is None:
        raise OptionError(f"the tempo is {text!r}, expected a factor such as 0.9, or 90%.")
    return float(number[1]) / (100 if number[2] == "%" else 1)


@dataclass(frozen=True)
class Form:
    """What the file of a result is like.

    Attributes:
        format: of the audio.
        suffix: of the file, with the dot.
        bitrate: kbit/s of lossy formats.
        video: pictures go in as well.
        note: a sentence for the user where it isn't the input's form, else "".
    """

    format: Format
    suffix: str
    bitrate: int | None
    video: bool = False
    note: str = ""


def choose_form(info: AudioInfo, options: Options) -> Form:
    """The form of the input, or as asked.

    Raises:
        OutputError: the format asked for can't hold the input's channels.
        OptionError: part of a video was asked for.
    """
    own = Path(info.path).suffix
    if info.has_video and options.format is None:
        if options.start is not None or options.end is not None:
            raise OptionError(
                f"{Path(info.path).name} is a video; --from and --to can't cut its pictures without new encoding.",
                hint="--format m4a (or another) gives the sound alone.",
            )
        suffix = own if own.lower() in VIDEO_CONTAINERS else ".mkv"
        note = "" if suffix == own else f"videos of the kind {own} can't be written: the result is an .mkv"
        video_format: Format = "opus" if audio_format_for(f"x{suffix}") == "opus" else "m4a"
        return Form(video_format, suffix, _bitrate(info, video_format, options), True, note)
    format_ = options.format or _same_format(info)
    if options.format is not None:
        check_channels(format_, info.channels)
    suffix = own if own.lower() in _SUFFIXES[format_] and not info.has_video else f".{SUFFIX[format_]}"
    note = ""
    if options.format is None and format_ != info.format:
        note = f"{info.format} ({info.codec}) can't be written: the result is {format_}"
    return Form(format_, suffix, _bitrate(info, format_, options), note=note)


def _same_format(info: AudioInfo) -> Format:
    """The input's format, or the nearest one that can be written and holds its channels."""
    floats = info.sample_type in ("f32", "f64", "s32", "u8", "s8")
    unpacked: Format = "wav" if floats or info.format in _UNPACKED else "flac"
    wishes: list[str] = (
        [info.format, _BY_CODEC.get(info.codec, "m4a"), "ogg"] if info.lossy else [info.format, unpacked]
    )
    for wish in [*wishes, "wav"]:
        if wish not in _SUFFIXES:
            continue
        with contextlib.suppress(OutputError):
            check_channels(wish, info.channels)
            return wish  # type: ignore[return-value]
    raise OutputError(f"{info.path}: no format holds {info.channels} channels.")


def _bitrate(info: AudioInfo, format_: Format, options: Options) -> int | None:
    """kbit/s: at least the input's, and no less than a second lossy encoding needs; from lossless the default."""
    default = DEFAULT_BITRATES.get(format_)
    if options.bitrate is not None or default is None or not info.lossy or info.bit_rate is None:
        return options.bitrate
    pairs = info.channels / 2 if info.channels > 2 else 1
    wish = max(info.bit_rate / 1000, _LEAST_BITRATE[format_] * pairs)
    if format_ == "mp3":
        return next((rate for rate in _MP3_BITRATES if rate >= wish), _MP3_BITRATES[-1])
    return round(min(max(wish, 8), max(512, default) * max(1.0, pairs)))


def with_guide(plan: StemPlan, guide: float | None) -> StemPlan:
    """A plan whose outputs keep what they leave out at `guide` dB: (1 - g) · output + g · mixture."""
    if guide is None:
        return plan
    g = 10 ** (guide / 20)
    outputs = []
    for output in plan.outputs:
        weights = {source: (1 - g) * factor for source, factor in output.weights.items()}
        weights[MIXTURE] = weights.get(MIXTURE, 0.0) + g
        outputs.append(Output(output.name, {source: factor for source, factor in weights.items() if factor != 0.0}))
    return replace(plan, outputs=tuple(outputs))


class KaraokeSeparator(Separator):
    """A separator whose only output is the karaoke track; fits wherever a `Separator` does (see `batch.py`).

    Args:
        model: registry name or alias, or "auto".
        options: all knobs at once; `fields` are laid over them.
        target: path of the result, for one input; None names it after the input.
        on_progress: told of downloads, passes and warnings.
        fields: any field of `KaraokeOptions` by name.
    """

    options: KaraokeOptions

    def __init__(
        self,
        model: str | None = None,
        *,
        options: KaraokeOptions | None = None,
        target: Path | None = None,
        on_progress: ProgressCallback = ignore_progress,
        **fields: Any,
    ) -> None:
        wishes = merged_options(options, model, fields)
        self.target = target
        # The stems are set behind the check that users don't.
        plain = {name: value for name, value in asdict(wishes).items() if name in Options.names()}
        asked = {"minus": (LEAD,)} if wishes.keep_backing else {"stems": (STEM,)}
        super().__init__(options=Options(**{**plain, **asked}), on_progress=on_progress)
        self.options = wishes
        track = replace(self.plan.outputs[0], name=STEM)
        self.plan = with_guide(replace(self.plan, outputs=(track,)), wishes.guide)

    def targets_for(self, path: Path, folder: Path, *, track: str | None = None) -> dict[str, Path]:
        """Where the result for an input goes: "NAME (karaoke)" with the suffix of its form."""
        if self.target is not None:
            return {STEM: self.target}
        form = choose_form(probe(path, track=self.options.track), self.options)
        return {STEM: folder / f"{safe_name(track or path.stem)} ({STEM}){form.suffix}"}

    def encoding(self, info: AudioInfo) -> Encoding:
        """As the input, or as asked; see `choose_form`."""
        form = choose_form(info, self.options)
        return replace(encoding_for(info, replace(self.options, format=form.format)), bitrate=form.bitrate)

    def open_sink(self, path: Path, source: FileSource, targets: Mapping[str, Path], *, overwrite: bool) -> FileSink:
        """The track's file; for a video one that takes its pictures over."""
        form = choose_form(source.info, self.options)
        encoding = self.encoding(source.info)
        changes = self._tag_changes(path, source.name)
        sink: FileSink
        if form.video:
            sink = VideoSink(targets, encoding, video=path, changes=changes, overwrite=overwrite, options=self.options)
        else:
            sink = FileSink(targets, encoding, tagging=Tagging(path, {STEM: changes}), overwrite=overwrite)
        sink.notes += [form.note] if form.note else []
        return sink

    def finish(self, outputs: Iterator[dict[str, Block]], info: AudioInfo) -> Iterator[dict[str, Block]]:
        """Key and tempo."""
        stretcher = PitchTempo(
            info.sample_rate,
            info.channels,
            semitones=self.options.key,
            tempo=self.options.tempo,
            channel_layout=info.channel_layout,
        )
        for block in pitch_tempo_blocks((block[STEM] for block in outputs), stretcher):
            yield {STEM: block}

    def _tag_changes(self, path: str | os.PathLike[str], name: str) -> dict[str, str]:
        """The title is marked; what another key and tempo make wrong is put right or left out."""
        tags = read_tags(path)
        changes = {"title": f"{tags.get('title') or Path(name).stem} ({STEM})"}
        if self.options.tempo != 1 and "bpm" in tags:
            number = re.fullmatch(r"\d+(\.\d*)?", tags["bpm"].strip())
            changes["bpm"] = f"{float(number[0]) * self.options.tempo:.0f}" if number else ""
        if self.options.key != 0 and "initialkey" in tags:
            changes["initialkey"] = ""
        return changes


class VideoSink(FileSink):
    """A video file with new sound: the audio is written to a temporary file first, then joined with the pictures."""

    def __init__(
        self,
        targets: Mapping[str, Path],
        encoding: Encoding,
        *,
        video: Path,
        changes: Mapping[str, str],
        overwrite: bool,
        options: KaraokeOptions,
    ) -> None:
        self._video, self._changes, self._options = video, dict(changes), options
        self._sound: Path | None = None
        super().__init__(targets, encoding, overwrite=overwrite)

    def prepare(self) -> None:
        """Finish the audio, join it with the pictures, read it back.

        Raises:
            OutputError: a file can't be finished, or isn't what was written.
        """
        super().prepare()
        target = self.targets[STEM]
        self._sound = self._parts[STEM]
        self._parts[STEM] = part_path(target.parent, target.suffix.lstrip("."))
        self.notes += remux_video(
            self._video,
            self._sound,
            self._parts[STEM],
            track=self._options.track,
            changes=self._changes,
            tempo=self._options.tempo,
        )
        self._verify_joined(self._parts[STEM], target)
        self._sound.unlink()

    def _verify_joined(self, part: Path, target: Path) -> None:
        info = probe(part)
        rate, _ = plan_rate(self.encoding.format, self.encoding.sample_rate)
        expected = self.frames / self.encoding.sample_rate
        if not info.has_video or info.sample_rate != rate or abs((info.duration or expected) - expected) > 1.0:
            raise OutputError(
                f"{target}: read back it is not the video that was written.", hint="check the disk; run again."
            )

    def abort(self) -> None:
        """Remove everything that was written."""
        super().abort()
        if self._sound is not None:
            self._sound.unlink(missing_ok=True)


def merged_options(options: KaraokeOptions | None, model: str | None, fields: Mapping[str, Any]) -> KaraokeOptions:
    """Fields laid over options.

    Raises:
        OptionError: a field that doesn't exist.
    """
    changes = {**fields, **({} if model is None else {"model": model})}
    unknown = sorted(set(changes) - set(KaraokeOptions.names()))
    if unknown:
        raise OptionError(f"{unknown[0]!r} is not an option; options are {', '.join(KaraokeOptions.names())}.")
    return replace(options or KaraokeOptions(), **changes)


def make_karaoke(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    options: KaraokeOptions | None = None,
    on_progress: ProgressCallback = ignore_progress,
    **fields: Any,
) -> Separation:
    """Make the karaoke track of one file, as `unmix karaoke FILE` does.

    Args:
        source: the song or video.
        target: path of the result; None: "NAME (karaoke)" beside the input, in its format.
        model: registry name or alias, or "auto".
        options: all knobs at once; `fields` are laid over them.
        on_progress: told of downloads, progress and warnings.
        fields: any field of `KaraokeOptions` by name: guide=-18, key=2, tempo=0.9 …

    Raises:
        UnmixError: what went wrong, with a hint; nothing half-written is left.
    """
    path = Path(source)
    named = None if target is None else Path(target)
    if named is not None and "format" not in fields:
        wish = format_for(named)
        if wish is not None:
            fields["format"] = wish
    separator = KaraokeSeparator(model, options=options, target=named, on_progress=on_progress, **fields)
    result, _ = separator.separate_to_files(path, separator.targets_for(path, path.parent))
    return result


def format_for(target: Path) -> Format | None:
    """The format that a result's name asks for; None for videos, whose form is the input's."""
    suffix = target.suffix.lower()
    if suffix in VIDEO_CONTAINERS:
        return None
    for format_, suffixes in _SUFFIXES.items():
        if suffix in suffixes:
            return format_  # type: ignore[return-value]
    known = sorted({suffix for suffixes in _SUFFIXES.values() for suffix in suffixes} | set(VIDEO_CONTAINERS))
    raise OptionError(
        f"{target}: no format has the suffix {suffix or '(none)'!s}.", hint=f"these can be written: {', '.join(known)}."
    )


__all__ = ["Form", "KaraokeOptions", "KaraokeSeparator", "choose_form", "make_karaoke", "parse_guide", "parse_tempo"]
