"""Where outputs go: arrays or files. Files appear under their name only when all of a track's are complete.

A file is written beside its destination under a hidden temporary name, closed, read back, tagged, and then renamed.
Whatever goes wrong before that leaves nothing that looks finished.

Formats that can't hold samples beyond full scale (integers, lossy codecs) need one gain for all outputs of a track,
which is known only at its end. So such outputs are encoded as they come, at gain one, and kept as float32 in a spool
file as well; only if a peak exceeded full scale are they encoded again from there, turned down together.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.decode import probe
from unmixcli.audio.encode import SUFFIX, open_encoder
from unmixcli.audio.stemfile import open_stem_encoder
from unmixcli.audio.tags import copy_tags
from unmixcli.device import cpu_count
from unmixcli.errors import OutputError
from unmixcli.options import Clipping, Format
from unmixcli.stems import MIXTURE

Block = NDArray[np.float32]

_PART_PREFIX = ".unmix-part-"
_FLOAT_TYPES = ("f32", "f64")
_SPOOL_FRAMES = 65536


class Encoder(Protocol):
    """What a sink needs of an open encoder."""

    def write(self, block: Block) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Encoding:
    """How to write.

    Attributes:
        format: container and codec.
        sample_rate: Hz.
        channels: C.
        sample_type: "s16", "s24", "f32" … for formats with a choice.
        bitrate: kbit/s for lossy formats; None: the format's default.
        clipping: what to do where an output exceeds full scale and the format can't hold that.
        channel_layout: a name such as "5.1", where known.
    """

    format: Format
    sample_rate: int
    channels: int
    sample_type: str = "s16"
    bitrate: int | None = None
    clipping: Clipping = "scale"
    channel_layout: str | None = None

    @property
    def holds_any_level(self) -> bool:
        """True if samples beyond full scale survive."""
        return self.format in ("wav", "aiff") and self.sample_type in _FLOAT_TYPES


@dataclass(frozen=True)
class Tagging:
    """Tags for the files of one track.

    Attributes:
        source: file whose tags and cover art are copied; None writes no tags.
        changes: output name -> tag -> value, over what is copied.
    """

    source: Path | None = None
    changes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class ArraySink:
    """Outputs in memory."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[Block]] = {}

    def write(self, outputs: Mapping[str, Block]) -> None:
        """Keep one block of every output."""
        for name, block in outputs.items():
            self._blocks.setdefault(name, []).append(block)

    def arrays(self, names: Sequence[str], channels: int) -> dict[str, Block]:
        """name -> [C, T]; T is 0 for a source without samples."""
        empty = np.zeros((channels, 0), np.float32)
        return {name: np.concatenate([empty, *self._blocks.get(name, [])], axis=1) for name in names}


class FileSink:
    """One file per output.

    Use: `write` every block, then `prepare` (everything that can fail), then `commit` (renames), or `abort`.
    As a context manager it aborts unless committed.

    Args:
        targets: output name -> path of the finished file. With format "stem.mp4" there is one path, for the name
            `MIXTURE`, and `stem_names` says which outputs go into it.
        encoding: how to write.
        tagging: tags of the files.
        stem_names: with "stem.mp4", the four outputs in the order of its tracks.
        overwrite: replace files that exist.
    """

    def __init__(
        self,
        targets: Mapping[str, Path],
        encoding: Encoding,
        *,
        tagging: Tagging | None = None,
        stem_names: Sequence[str] = (),
        overwrite: bool = False,
    ) -> None:
        self.targets = dict(targets)
        self.encoding = encoding
        self.gain = 1.0
        self.peak = 0.0
        self.frames = 0
        self.notes: list[str] = []
        self._tagging = tagging or Tagging()
        self._stem_names = tuple(stem_names)
        self._overwrite = overwrite
        self._committed = False
        self._pending: list[Future[None]] = []
        self._encoders: dict[str, Encoder] = {}
        self._spools: dict[str, IO[bytes]] = {}
        names = [MIXTURE, *self._stem_names] if self._stem_names else list(self.targets)
        self._outputs = names
        self._pool = ThreadPoolExecutor(max(1, min(len(names), cpu_count())), thread_name_prefix="unmix-encode")
        self._parts: dict[str, Path] = {}
        self._made: list[Path] = []
        try:
            self._open()
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> FileSink:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._committed:
            self.abort()

    # ------------------------------------------------------------ writing

    def _open(self) -> None:
        for name, target in self.targets.items():
            with _clear_errors(target):
                self._made += _make_folders(target.parent)
                remove_leftovers(target.parent)
            self._parts[name] = part_path(target.parent, SUFFIX[self.encoding.format])
        if self.encoding.clipping == "scale" and not self.encoding.holds_any_level:
            folder = next(iter(self.targets.values())).parent
            for name in self._outputs:
                self._spools[name] = part_path(folder, "f32").open("w+b")
        self._start_encoders()

    def _start_encoders(self) -> None:
        encoding = self.encoding
        if self._stem_names:
            self._encoders = {MIXTURE: _StemFile(self._parts[MIXTURE], encoding, self._stem_names)}
            return
        for name, part in self._parts.items():
            self._encoders[name] = open_encoder(
                part,
                format=encoding.format,
                sample_rate=encoding.sample_rate,
                channels=encoding.channels,
                sample_type=encoding.sample_type,
                bitrate=encoding.bitrate,
                channel_layout=encoding.channel_layout,
            )

    def write(self, outputs: Mapping[str, Block]) -> None:
        """Encode one block of every output; returns when the block before is on its way to the disk."""
        self._wait()
        self.frames += next(iter(outputs.values())).shape[-1]
        for name in self._outputs:
            self.peak = max(self.peak, float(np.abs(outputs[name]).max(initial=0.0)))
        for name, spool in self._spools.items():
            self._pending.append(self._pool.submit(_spool_block, spool, outputs[name]))
        self._encode(outputs)

    def _encode(self, outputs: Mapping[str, Block]) -> None:
        if self._stem_names:
            block = np.stack([outputs[name] for name in self._outputs])
            self._pending.append(self._pool.submit(self._encoders[MIXTURE].write, block))
            return
        for name, encoder in self._encoders.items():
            self._pending.append(self._pool.submit(encoder.write, outputs[name]))

    def _wait(self) -> None:
        pending, self._pending = self._pending, []
        with _clear_errors(next(iter(self.targets.values()))):
            for future in pending:
                future.result()

    # ------------------------------------------------------------ finishing

    def prepare(self) -> None:
        """Close, turn down if needed, read back, tag: after this only renames are left.

        Raises:
            OutputError: a file can't be finished, or isn't what was written.
        """
        self._wait()
        self._close_encoders()
        if self._spools and self.peak > 1.0:
            self._encode_again(1.0 / self.peak)
        for name, part in self._parts.items():
            self._verify(part, self.targets[name])
            self._tag(name, part)
            _sync(part)

    def _encode_again(self, gain: float) -> None:
        self.gain = gain
        alike = ", all stems alike," if len(self._outputs) > 1 else ""
        self.notes.append(
            f"turned down by {-20 * np.log10(gain):.2f} dB{alike} so that no peak is cut "
            "(--bit-depth 32f keeps the level, --clipping clamp cuts)"
        )
        for spool in self._spools.values():
            spool.seek(0)
        self._start_encoders()
        done = 0
        while done < self.frames:
            length = min(_SPOOL_FRAMES, self.frames - done)
            outputs = {name: self._unspool(spool, length) * np.float32(gain) for name, spool in self._spools.items()}
            self._wait()
            self._encode(outputs)
            done += length
        self._wait()
        self._close_encoders()

    def _unspool(self, spool: IO[bytes], length: int) -> Block:
        channels = self.encoding.channels
        data = spool.read(length * channels * 4)
        block: Block = np.frombuffer(data, np.float32).reshape(length, channels).T
        return block

    def _close_encoders(self) -> None:
        with _clear_errors(next(iter(self.targets.values()))):
            for encoder in self._encoders.values():
                encoder.close()
                note = getattr(encoder, "note", None)
                if note and note not in self.notes:
                    self.notes.append(note)
        self._encoders = {}

    def _verify(self, part: Path, target: Path) -> None:
        info = probe(part)
        same_rate = info.sample_rate == self.encoding.sample_rate
        if same_rate and info.frames is not None and info.frames != self.frames:
            raise OutputError(
                f"{target}: read back it has {info.frames} samples, {self.frames} were written.",
                hint="check the disk; run again.",
            )

    def _tag(self, name: str, part: Path) -> None:
        if self._tagging.source is not None:
            for warning in copy_tags(self._tagging.source, part, changes=self._tagging.changes.get(name, {})):
                if warning not in self.notes:
                    self.notes.append(warning)

    def sizes(self) -> dict[str, int]:
        """Output name -> bytes of its file, once prepared."""
        return {name: part.stat().st_size for name, part in self._parts.items()}

    def commit(self) -> list[Path]:
        """Give the files their names. Returns the paths, in the order of the targets."""
        for name, part in self._parts.items():
            target = self.targets[name]
            if target.exists() and not self._overwrite:
                raise OutputError(f"{target} appeared meanwhile.", hint="--overwrite replaces it.")
            with _clear_errors(target):
                part.replace(target)
        self._committed = True
        self._finish()
        return list(self.targets.values())

    def abort(self) -> None:
        """Remove everything that was written, and the folders made for it if they are empty."""
        for future in self._pending:
            future.cancel()
        self._pool.shutdown(wait=True)
        for encoder in self._encoders.values():
            with contextlib.suppress(Exception):
                encoder.close()
        self._encoders = {}
        self._finish()
        for part in self._parts.values():
            part.unlink(missing_ok=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _finish(self) -> None:
        self._pool.shutdown(wait=True)
        for spool in self._spools.values():
            spool.close()
            Path(spool.name).unlink(missing_ok=True)
        self._spools = {}


class _StemFile:
    """A `.stem.mp4` as one encoder: blocks are [1 + S, C, T], the mixture first."""

    def __init__(self, path: Path, encoding: Encoding, stems: Sequence[str]) -> None:
        lossless = encoding.bitrate is None and encoding.sample_type in ("s24", "s32")
        self._encoder: Any = open_stem_encoder(
            path,
            sample_rate=encoding.sample_rate,
            channels=encoding.channels,
            stems=list(stems),
            codec="alac" if lossless else "aac",
            bitrate=encoding.bitrate,
        )

    def write(self, block: Block) -> None:
        self._encoder.write(block[0], list(block[1:]))

    def close(self) -> None:
        self._encoder.close()


# ---------------------------------------------------------------- small parts


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files in a folder whose process is gone (it was killed)."""
    for path in folder.glob(f"{_PART_PREFIX}*"):
        pid = path.name[len(_PART_PREFIX) :].split("-", 1)[0]
        if pid.isdigit() and not _alive(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    if os.name == "nt":  # signal 0 would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def part_path(folder: Path, suffix: str) -> Path:
    return folder / f"{_PART_PREFIX}{os.getpid()}-{secrets.token_hex(4)}.{suffix}"


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were made, outermost first."""
    missing = [path for path in [folder, *folder.parents] if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _spool_block(spool: IO[bytes], block: Block) -> None:
    spool.write(np.ascontiguousarray(block.T, dtype=np.float32).tobytes())


def _sync(path: Path) -> None:
    """Have the file on the disk before its name is."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _clear_errors(target: Path) -> Iterator[None]:
    """An operating system's error about a file as one that names it and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{target}: can't be written: {reason}.", hint="check the folder's permissions and the free disk space."
        ) from error
