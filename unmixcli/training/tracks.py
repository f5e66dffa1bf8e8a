"""A track as training sees it: named stems, each the sum of parts of files, and which of them can be believed.

Names. `vocals`, `drums` and `bass` are themselves; `other` is every stem of the track that is neither one of these nor
asked for by its own name (so a track with `guitar` and `piano` serves a model of four stems and one of six);
`accompaniment` is everything but the vocals, whether a data set has it as one stem or as several. What a track has
beyond the stems asked for is its rest: it sounds in the mixture and is no target.

Silence or ignorance. One of the first four names without a file is silence, unless the track says that it is unknown:
it may then sound inside another stem, and is neither a target nor an example of silence. A name such as `guitar` is
unknown in a track that has an `other` and no `guitar`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from unmixcli.audio.decode import open_audio, probe
from unmixcli.audio.excerpt import count_frames, read_excerpt
from unmixcli.audio.resample import resample_blocks, resampled_length
from unmixcli.errors import InputError, OptionError

Samples = NDArray[np.float32]

STEMS = ("vocals", "drums", "bass", "other")
ACCOMPANIMENT = "accompaniment"
# Whatever a track has no file for is unknown, for instance in a folder per source.
ALL = "*"
SPLITS = ("train", "validation", "test")
# Input samples around an excerpt that is resampled: soxr's filter is shorter on each side at any ratio in use.
_CONTEXT = 2048


class Part(Protocol):
    """Where sound comes from: positions and lengths are in samples at the rate asked for."""

    def frames(self, sample_rate: int) -> int:
        """Its length."""

    def read(self, start: int, length: int, sample_rate: int) -> Samples:
        """[2, length] float32; zeros where there is nothing."""


@dataclass(frozen=True)
class FilePart:
    """An audio file, one track of a file with several, or one channel of it.

    Attributes:
        path: of the file.
        track: which audio track, 0 is the first.
        channel: the only one to take (it is heard on both sides); None: mono or stereo as it is.
        gain: factor.
    """

    path: str
    track: int = 0
    channel: int | None = None
    gain: float = 1.0

    def frames(self, sample_rate: int) -> int:
        """Samples it has at `sample_rate`."""
        rate, frames, _ = file_facts(self.path, self.track)
        return resampled_length(frames, rate, sample_rate)

    def read(self, start: int, length: int, sample_rate: int) -> Samples:
        """[2, length].

        Raises:
            InputError: the file can't be read, or has more than two channels.
        """
        rate, _, _ = file_facts(self.path, self.track)

        def read(at: int, count: int) -> Samples:
            return read_excerpt(self.path, at, count, track=self.track)

        return self._as_pair(at_rate(read, start, length, rate, sample_rate))

    def stream(self, sample_rate: int, block: int) -> Iterator[Samples]:
        """The whole part in order, [2, T] with T = `block` but for the last: each sample is decoded once.

        Raises:
            InputError: as `read`, and where the file ends before it should.
        """
        rate, _, channels = file_facts(self.path, self.track)
        length = self.frames(sample_rate)
        with open_audio(self.path, track=self.track) as decoder:
            waiting = np.zeros((channels, 0), np.float32)
            for piece in resample_blocks(decoder, rate, sample_rate, channels, length):
                waiting = np.concatenate([waiting, piece], axis=1)
                while waiting.shape[1] >= block:
                    yield self._as_pair(waiting[:, :block])
                    waiting = waiting[:, block:]
            if waiting.shape[1]:
                yield self._as_pair(waiting)

    def _as_pair(self, audio: Samples) -> Samples:
        """[C, T] of the file as [2, T] of the part."""
        channels = len(audio)
        if self.channel is None and channels > 2:
            raise InputError(
                f"{self.path}: has {channels} channels, expected 1 or 2.", hint="Mix it down to stereo for training."
            )
        if self.channel is not None and self.channel >= channels:
            raise InputError(f"{self.path}: has {channels} channel(s), expected a channel {self.channel + 1}.")
        if self.channel is not None:
            audio = audio[self.channel : self.channel + 1]
        if self.gain != 1:
            audio = audio * np.float32(self.gain)
        return np.repeat(audio, 2, axis=0) if len(audio) == 1 else audio


@functools.lru_cache(maxsize=1 << 16)
def file_facts(path: str, track: int) -> tuple[int, int, int]:
    """(Hz, exact samples, channels) of a track of a file; remembered for the life of the process."""
    info = probe(path, track)
    frames = info.frames if info.frames is not None else count_frames(path, track=track)
    return info.sample_rate, frames, info.channels


def at_rate(read: Any, start: int, length: int, rate: int, sample_rate: int) -> Samples:
    """An excerpt at `sample_rate` of what `read(start, length) -> [C, length]` gives at `rate`, exact in time.

    Input is read from a sample that lies on an output sample (every rate / gcd samples), with context on both sides.
    """
    if rate == sample_rate:
        audio: Samples = read(start, length)
        return audio
    common = math.gcd(rate, sample_rate)
    step_in, step_out = rate // common, sample_rate // common
    steps = start // step_out - -(-_CONTEXT // step_in)
    first_in, first_out = steps * step_in, steps * step_out
    count = -(-(start + length - first_out) * rate // sample_rate) + _CONTEXT
    audio = soxr.resample(np.ascontiguousarray(read(first_in, count).T), rate, sample_rate, quality="VHQ").T
    return np.ascontiguousarray(audio[:, start - first_out : start - first_out + length])


@dataclass(frozen=True)
class Plan:
    """A track seen by somebody who asks for certain stems.

    Attributes:
        parts: of each stem asked for; empty: silence, or not known.
        known: of each stem asked for, whether `parts` is all there is of it.
        rest: what sounds in the mixture beside them.
    """

    parts: tuple[tuple[Part, ...], ...]
    known: tuple[bool, ...]
    rest: tuple[Part, ...]

    @property
    def complete(self) -> bool:
        """Whether all stems asked for are known."""
        return all(self.known)


@dataclass(frozen=True)
class Track:
    """One song, clip or recording.

    Attributes:
        name: unique in its folder, with "/" between the levels of sub-folders.
        stems: the parts of each stem by its name; their sum is the stem.
        unknown: names that are no target even if they have parts, and not silent if they have none; `ALL` means all
            that have none.
        split: "train", "validation" or "test".
        weight: how often its seconds are drawn, relative to other tracks.
        licence: for the model card.
        bleed: the microphones heard each other, so the stems are not clean.
    """

    name: str
    stems: Mapping[str, tuple[Part, ...]]
    unknown: frozenset[str] = field(default_factory=frozenset)
    split: str = "train"
    weight: float = 1.0
    licence: str = "unknown"
    bleed: bool = False

    def frames(self, sample_rate: int) -> int:
        """Length of the longest part, in samples at `sample_rate`."""
        return max((part.frames(sample_rate) for parts in self.stems.values() for part in parts), default=0)

    def plan(self, stems: Sequence[str]) -> Plan:
        """What this track has of `stems`; see the head of the module.

        Raises:
            OptionError: the same sound is asked for twice.
        """
        check_stems(stems)
        sums = [self._names(stem, stems) for stem in stems]
        known = tuple(self._is_known(stem, names) for stem, names in zip(stems, sums, strict=True))
        used = {name for names, sure in zip(sums, known, strict=True) if sure for name in names}
        parts = tuple(
            tuple(part for name in names for part in self.stems[name]) if sure else ()
            for names, sure in zip(sums, known, strict=True)
        )
        rest = tuple(part for name, found in self.stems.items() if name not in used for part in found)
        return Plan(parts, known, rest)

    def _names(self, stem: str, stems: Sequence[str]) -> list[str]:
        """Stems of the track that make up one that is asked for."""
        if stem == ACCOMPANIMENT:
            return [name for name in self.stems if name != "vocals"]
        if stem == "other":
            return [name for name in self.stems if name == "other" or name not in (*STEMS, ACCOMPANIMENT, *stems)]
        return [stem] if stem in self.stems else []

    def _is_known(self, stem: str, names: list[str]) -> bool:
        if stem in self.unknown:
            return False
        if names and stem == ACCOMPANIMENT:
            return ACCOMPANIMENT in self.stems or ALL not in self.unknown
        if names:
            return not self.unknown.intersection(names)
        if ALL in self.unknown:
            return False
        if stem == ACCOMPANIMENT:
            return not self.unknown.difference({"vocals"})
        if stem in STEMS:
            return stem == "vocals" or ACCOMPANIMENT not in self.stems
        return "other" not in self.stems and ACCOMPANIMENT not in self.stems


def check_stems(stems: Sequence[str]) -> None:
    """Raise OptionError where stems can't be asked for together."""
    if not stems or len(set(stems)) != len(stems):
        raise OptionError(f"stems are {', '.join(stems) or 'empty'}, expected one or more different names.")
    if ACCOMPANIMENT in stems and set(stems) - {ACCOMPANIMENT, "vocals"}:
        raise OptionError(
            f"stems are {', '.join(stems)}: accompaniment is everything but the vocals, and goes with vocals only.",
            hint='ask for "other" in its place.',
        )


_SETTINGS = {"unknown", "split", "weight", "licence", "bleed"}


def describe(track: Track, settings: Mapping[str, Any], source: str) -> Track:
    """A track with what a `track.json` or a recipe says about it.

    Args:
        settings: `unknown` (list of stems), `split`, `weight`, `licence` and `bleed`; other keys are for other readers.
        source: where they stand, for messages.

    Raises:
        InputError: a value that can't be.
    """
    changes: dict[str, Any] = {key: value for key, value in settings.items() if key in _SETTINGS}
    if "unknown" in changes:
        unknown = changes["unknown"]
        if not isinstance(unknown, (list, tuple)) or not all(isinstance(name, str) for name in unknown):
            raise InputError(f"{source}: unknown is {unknown!r}, expected a list of stems.")
        changes["unknown"] = frozenset(unknown)
    if "split" in changes and changes["split"] not in SPLITS:
        raise InputError(f"{source}: split is {changes['split']!r}, expected {', '.join(SPLITS)}.")
    if "weight" in changes:
        weight = changes["weight"]
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise InputError(f"{source}: weight is {weight!r}, expected a number of 0 or more.")
    if "bleed" in changes and not isinstance(changes["bleed"], bool):
        raise InputError(f"{source}: bleed is {changes['bleed']!r}, expected true or false.")
    if "licence" in changes and not isinstance(changes["licence"], str):
        changes["licence"] = str(changes["licence"])
    return replace(track, **changes)


def describe_all(tracks: Sequence[Track], settings: Mapping[str, Mapping[str, Any]]) -> list[Track]:
    """Tracks with what `settings` says about them by name.

    Raises:
        OptionError: a name that no track has.
        InputError: a value that can't be.
    """
    names = {track.name for track in tracks}
    for name in settings:
        if name not in names:
            some = ", ".join(sorted(names)[:10])
            raise OptionError(f"no track is called {name!r}; there are {some}{' …' if len(names) > 10 else ''}.")
    return [
        describe(track, settings[track.name], f"track {track.name}") if track.name in settings else track
        for track in tracks
    ]


def file_part(path: Path, **where: Any) -> FilePart:
    """A part by the path of its file."""
    return FilePart(str(path), **where)
