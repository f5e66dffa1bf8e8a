"""Random excerpts of tracks: item `i` is the same for one seed, whoever asks for it, in whatever order.

    tracks = find_tracks("musdb18hq")
    excerpts = Excerpts(tracks, ("vocals", "drums", "bass", "other"), sample_rate=44100, length=6 * 44100, seed=1)
    item = excerpts[0]

An item holds `stems` [S, 2, T] and `mixture` [2, T], float32 tensors, and `known` [S], bool. The mixture is the sum of
the stems and of whatever the track has beside them, unless an augmentation that works on the mixture alone (a codec)
changed it. A stem that isn't known is zeros in `stems` and no target, though it may sound in the mixture: items with
such stems only come where `unknown="mask"` asks for them.

Files are read where the excerpt lies and no more (see `unmixcli.audio.excerpt`); a packed set (`training.packed`) is
some twenty times quicker than FLAC and needs no decoding at all.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from unmixcli.errors import InputError, OptionError
from unmixcli.training.augment import Chain
from unmixcli.training.tracks import Part, Plan, Track, check_stems

Samples = NDArray[np.float32]
Item = dict[str, Tensor]

# Root mean square under which an excerpt counts as silent: -60 dBFS.
SILENCE = 1e-3
# Draws before a silent one is taken.
_TRIES = 8
_ENDLESS = 1 << 40


class Excerpts(Dataset[Item]):
    """Random excerpts with augmentations; a map-style data set of torch.

    A second of one track is as likely as a second of another, times the tracks' weights.

    Args:
        tracks: as `find_tracks` gives them.
        stems: names, in the order of the items; see `training.tracks` for what `other` and `accompaniment` mean.
        sample_rate: Hz; other files are resampled.
        length: T, samples.
        seed: of everything random.
        augmentations: tables with `kind`, `probability` and settings, done in this order; see `training.augment`.
        cross_track: share of the items whose stems come from different tracks and places.
        keep_silent: probability of keeping a stem that is silent in the excerpt, where stems are drawn one by one, and
            an excerpt that is silent altogether.
        unknown: "skip": whole tracks are only used if all stems asked for are known, others give single stems to
            `cross_track`; "mask": they are used, with `known` saying what can be a target.

    Raises:
        OptionError: a value out of range, or stems that can't be asked for together.
        InputError: no track has anything to learn from.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        stems: Sequence[str],
        *,
        sample_rate: int,
        length: int,
        seed: int = 0,
        augmentations: Sequence[Mapping[str, Any]] = (),
        cross_track: float = 0.0,
        keep_silent: float = 0.1,
        unknown: str = "skip",
    ) -> None:
        for name, value in (("cross_track", cross_track), ("keep_silent", keep_silent)):
            if not 0 <= value <= 1:
                raise OptionError(f"{name} is {value}, expected 0 to 1.")
        if unknown not in ("skip", "mask"):
            raise OptionError(f"unknown is {unknown!r}, expected skip or mask.")
        if length < 1 or sample_rate < 1:
            raise OptionError(f"length is {length} samples at {sample_rate} Hz, expected 1 or more of both.")
        check_stems(stems)
        self.stems = tuple(stems)
        self.sample_rate = sample_rate
        self.length = length
        self.seed = seed
        self.chain = Chain(augmentations, sample_rate)
        self._cross_track = cross_track
        self._keep_silent = keep_silent
        self._fill_pools(tracks, unknown == "mask")

    def _fill_pools(self, tracks: Sequence[Track], mask: bool) -> None:
        plans = [(track, track.plan(self.stems), track.frames(self.sample_rate)) for track in tracks if track.weight]
        plans = [(track, plan, frames) for track, plan, frames in plans if frames]
        whole = [(t, p, n) for t, p, n in plans if p.complete or (mask and any(p.known))]
        self._whole = _Pool((plan, frames, track.weight) for track, plan, frames in whole)
        # Stems of one name, from every track that knows them; and those that are more than silence.
        known = [[(p.parts[s], n, t.weight) for t, p, n in plans if p.known[s]] for s in range(len(self.stems))]
        rests = [(p.rest, n, t.weight) for t, p, n in plans if p.complete]
        self._pools = [_Pool(found) for found in (*known, rests)]
        self._sounding = [_Pool(entry for entry in found if entry[0]) for found in (*known, rests)]
        self._rest = any(plan.rest for plan in self._whole.items)
        if not any(self._sounding):
            raise InputError(
                f"none of {len(tracks)} tracks has one of the stems {', '.join(self.stems)}.",
                hint="See the names of the files, and `unknown` in track.json.",
            )
        empty = [name for name, pool in zip(self.stems, self._sounding, strict=False) if not pool]
        if empty and not self._whole:
            raise InputError(f"no track has the stem(s) {', '.join(empty)}, and none has all the others.")

    def __len__(self) -> int:
        """Without end, for all practical purposes."""
        return _ENDLESS

    def __getitem__(self, index: int) -> Item:
        """Item `index`, 0 <= index.

        Raises:
            InputError: a file can't be read.
        """
        rng = np.random.default_rng((self.seed, index))
        length = self.chain.read_length(self.length, self.seed, index)
        if not self._whole or rng.random() < self._cross_track:
            audio, known = self._mixed(rng, length), (True,) * len(self.stems)
        else:
            audio, known = self._aligned(rng, length)
        audio, mixture = self.chain(audio, self.seed, index, length=self.length)
        return make_item(audio[: len(self.stems)], mixture, known)

    def _aligned(self, rng: np.random.Generator, length: int) -> tuple[Samples, tuple[bool, ...]]:
        """All stems from one place of one track, [S (+ rest), 2, length]."""
        keep = rng.random() < self._keep_silent
        for attempt in range(_TRIES):
            plan, start = self._whole.draw(rng, length)
            audio = read_plan(plan, start, length, self.sample_rate, rest=self._rest)
            if keep or attempt == _TRIES - 1 or loudness(audio.sum(axis=0)) >= SILENCE:
                break
        return audio, plan.known

    def _mixed(self, rng: np.random.Generator, length: int) -> Samples:
        """Each stem from its own place of its own track, [S (+ rest), 2, length]."""
        audio = np.zeros((len(self.stems) + self._rest, 2, length), np.float32)
        for row, pool, sounding in zip(audio, self._pools, self._sounding, strict=False):
            keep = rng.random() < self._keep_silent
            chosen = pool if keep else sounding
            if not chosen:
                continue
            for attempt in range(_TRIES):
                parts, start = chosen.draw(rng, length)
                row[:] = read_parts(parts, start, length, self.sample_rate)
                if keep or attempt == _TRIES - 1 or loudness(row) >= SILENCE:
                    break
        return audio


class _Pool:
    """Things with a length, drawn by their seconds times their weights."""

    def __init__(self, entries: Iterable[tuple[Any, int, float]]) -> None:
        kept = list(entries)
        self.items = [item for item, _, _ in kept]
        self._frames = [frames for _, frames, _ in kept]
        self._bounds = list(itertools.accumulate(frames * weight for _, frames, weight in kept))

    def __bool__(self) -> bool:
        return bool(self.items)

    def draw(self, rng: np.random.Generator, length: int) -> tuple[Any, int]:
        """One of them and the first sample of an excerpt; where it is shorter than `length` that may be negative."""
        at = min(bisect.bisect_right(self._bounds, rng.random() * self._bounds[-1]), len(self.items) - 1)
        room = self._frames[at] - length
        return self.items[at], int(rng.integers(min(0, room), max(0, room) + 1))


def read_plan(plan: Plan, start: int, length: int, sample_rate: int, *, rest: bool) -> Samples:
    """The stems of a plan, [S, 2, length], with what the track has beside them as one more row if `rest`."""
    audio = np.zeros((len(plan.parts) + rest, 2, length), np.float32)
    for row, parts in zip(audio, (*plan.parts, plan.rest) if rest else plan.parts, strict=True):
        if parts:
            row[:] = read_parts(parts, start, length, sample_rate)
    return audio


def read_parts(parts: Sequence[Part], start: int, length: int, sample_rate: int) -> Samples:
    """The sum of parts, [2, length]."""
    if not parts:
        return np.zeros((2, length), np.float32)
    audio = parts[0].read(start, length, sample_rate)
    for part in parts[1:]:
        audio = audio + part.read(start, length, sample_rate)
    return audio


def read_track(
    track: Track,
    stems: Sequence[str],
    sample_rate: int,
    *,
    start: int = 0,
    length: int | None = None,
) -> Item:
    """A whole track, or a piece of it, as an item (`stems`, `mixture`, `known`), for validation.

    Args:
        start: first sample.
        length: samples; None: to the end.

    Raises:
        InputError: a file can't be read.
    """
    count = max(0, track.frames(sample_rate) - start) if length is None else length
    plan = track.plan(stems)
    audio = read_plan(plan, start, count, sample_rate, rest=True)
    return make_item(audio[: len(plan.parts)], audio.sum(axis=0), plan.known)


def make_item(stems: Samples, mixture: Samples, known: Sequence[bool]) -> Item:
    """Tensors of [S, 2, T], [2, T] and [S]."""
    return {
        "stems": torch.from_numpy(np.ascontiguousarray(stems)),
        "mixture": torch.from_numpy(np.ascontiguousarray(mixture)),
        "known": torch.tensor(known),
    }


def loudness(audio: Samples) -> float:
    """Root mean square; of every fourth sample, which is near enough to tell silence."""
    some = audio[..., ::4]
    return float(np.sqrt(np.mean(np.square(some)))) if some.size else 0.0
