"""Several models' estimates of a stem as one: pure functions of arrays.

    avg       Σ w_m y_m / Σ w_m
    median    sample by sample
    min_fft   in each bin of a short-time spectrum the estimate with the smallest magnitude, with its phase
    max_fft   the one with the largest
    avg_fft   the average of the spectra: `avg` but for rounding, under the name other programs know it by

min_fft lets the fewest errors through (what one member alone hears in a bin goes), max_fft loses the least. The
transform is the one of MSST and of audio-separator (`Ensembler`): Hann 2048, hop 1024, divided by the windows' energy.
Frames lie on one grid for the whole track, so nothing depends on how the streams were cut into blocks.

Which stems there are: those of all members together. A stem is combined of the members that give it, but what `other`
or `rest` means depends on the stems beside it: it comes from the members with the most stems alone. `accompaniment`
beside more stems than the vocals is left to the mixture minus vocals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.errors import OptionError
from unmixcli.options import Combine

Block = NDArray[np.float32]

FRAME_LENGTH = 2048
HOP = 1024
# Hops that are transformed at once; the grid of these does not depend on the blocks either.
_HOPS_AT_ONCE = 32

# What they mean depends on the other stems of the model.
REMAINDERS = frozenset({"other", "rest"})
WITHOUT_VOCALS = frozenset({"accompaniment", "instrumental", "instrum", "karaoke"})


# ---------------------------------------------------------------- who gives what


@dataclass(frozen=True)
class Voice:
    """What a member of an ensemble can give.

    Attributes:
        name: of the model.
        stems: its outputs.
        covers_mixture: they are meant to add up to the mixture.
    """

    name: str
    stems: tuple[str, ...]
    covers_mixture: bool


@dataclass(frozen=True)
class Casting:
    """Who is heard for which stem.

    Attributes:
        voices: the members.
        stems: of the ensemble.
        weights: stem -> a weight for each member; 0 for one that is not heard.
        covers_mixture: the stems are meant to add up to the mixture.
    """

    voices: tuple[Voice, ...]
    stems: tuple[str, ...]
    weights: Mapping[str, tuple[float, ...]]
    covers_mixture: bool

    def heard(self, member: int, wanted: Sequence[str]) -> tuple[str, ...]:
        """Which of the stems wanted a member is heard for, in its own order."""
        own = self.voices[member].stems
        return tuple(stem for stem in own if stem in wanted and self.weights[stem][member] > 0)


def cast_voices(voices: Sequence[Voice], weights: Sequence[str] = (), how: Combine = "avg") -> Casting:
    """Decide which member counts how much for which stem.

    Args:
        voices: the members, in order.
        weights: as in `Options.weights`.
        how: a combination; only averages know more than "counts" and "doesn't".

    Raises:
        OptionError: weights that are none, of the wrong number, or for a stem that nobody gives.
    """
    stems = _union(voices)
    stated = parse_weights(weights, [voice.name for voice in voices], stems)
    result = {}
    for stem in stems:
        row = stated.get(stem, stated.get("", (1.0,) * len(voices)))
        givers = _givers(stem, voices)
        row = tuple(weight if number in givers else 0.0 for number, weight in enumerate(row))
        if not any(row):
            names = ", ".join(voices[number].name for number in givers)
            raise OptionError(f"the weights leave nobody for {stem}; it is given by {names}.")
        if how not in ("avg", "avg_fft") and len({weight for weight in row if weight}) > 1:
            raise OptionError(
                f"{how} knows no weights beyond 0 (not heard) and equal ones, but {stem} has different ones.",
                hint="--combine avg takes any weights.",
            )
        result[stem] = row
    return Casting(tuple(voices), stems, result, _covers(voices, stems))


def parse_weights(texts: Sequence[str], members: Sequence[str], stems: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Weights as typed -> stem ("" for all that aren't named) -> a weight for each member.

    Raises:
        OptionError: not numbers >= 0, not as many as members, an unknown stem, or a stem twice.
    """
    found: dict[str, tuple[float, ...]] = {}
    for text in texts:
        stem, _, numbers = text.rpartition("=")
        try:
            row = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            row = ()
        if not row or not all(0 <= weight <= 1e6 for weight in row):
            raise OptionError(
                f"the weights are {text!r}, expected numbers of 0 or more such as 2,1 or vocals=1,3.",
            )
        if len(row) != len(members):
            raise OptionError(
                f"the weights {text!r} are for {len(row)} models, but there are {len(members)}: {', '.join(members)}.",
                hint="one number for each model, in the order of --model.",
            )
        if stem and stem not in stems:
            raise OptionError(f"the weights {text!r} are for a stem nobody gives; there are {', '.join(stems)}.")
        if stem in found:
            raise OptionError(f"there are two weights for {stem or 'all stems'}.")
        found[stem] = row
    return found


def _union(voices: Sequence[Voice]) -> tuple[str, ...]:
    every = tuple(dict.fromkeys(stem for voice in voices for stem in voice.stems))
    rest = [stem for stem in every if stem not in WITHOUT_VOCALS]
    if "vocals" in rest and len(rest) > 1:
        return tuple(rest)
    return every


def _givers(stem: str, voices: Sequence[Voice]) -> tuple[int, ...]:
    able = [number for number, voice in enumerate(voices) if stem in voice.stems]
    if stem not in REMAINDERS:
        return tuple(able)
    most = max((voices[number] for number in able), key=lambda voice: len(voice.stems))
    return tuple(number for number in able if set(voices[number].stems) == set(most.stems))


def _covers(voices: Sequence[Voice], stems: Sequence[str]) -> bool:
    if any(voice.covers_mixture and set(voice.stems) == set(stems) for voice in voices):
        return True
    return len(stems) == 2 and "vocals" in stems and bool(WITHOUT_VOCALS & set(stems))


# ---------------------------------------------------------------- how they become one


@dataclass(frozen=True)
class Share:
    """One member's part in a stem.

    Attributes:
        member: its number.
        index: of the stem among those that it computes.
        weight: the weights of a stem's shares add up to 1.
    """

    member: int
    index: int
    weight: float


@dataclass(frozen=True)
class Combination:
    """How the estimates of members become the stems of the ensemble.

    Attributes:
        how: see the module.
        shares: for each stem those whom it is made of.
    """

    how: Combine
    shares: tuple[tuple[Share, ...], ...]

    @classmethod
    def of(cls, casting: Casting, wanted: Sequence[str], how: Combine, run: Sequence[int]) -> Combination:
        """The combination for some stems.

        Args:
            casting: who is heard for what.
            wanted: stems of the casting.
            how: see the module.
            run: numbers of the members that are run; each computes what it is heard for, in its own order.
        """
        shares = []
        for stem in wanted:
            row = casting.weights[stem]
            total = math.fsum(row)
            shares.append(
                tuple(
                    Share(place, casting.heard(member, wanted).index(stem), row[member] / total)
                    for place, member in enumerate(run)
                    if row[member] > 0
                )
            )
        return cls(how, tuple(shares))


def combine_blocks(parts: Iterable[Sequence[Block]], combination: Combination) -> Iterator[Block]:
    """Combine streams.

    Args:
        parts: for each step the estimates [S_m, C, T] of every member, the same T for all of them.
        combination: what to make of them.

    Yields:
        [S, C, T'], together as long as the input. Bit for bit the same however the input was cut.
    """
    if combination.how in ("avg", "median"):
        for estimates in parts:
            yield np.stack([_in_time(shares, estimates, combination.how) for shares in combination.shares])
        return
    yield from _in_spectra(parts, combination)


def _in_time(shares: Sequence[Share], estimates: Sequence[Block], how: Combine) -> Block:
    chosen: list[Block] = [estimates[share.member][share.index] for share in shares]
    if len(chosen) == 1:
        return chosen[0]
    if how == "median":
        middle: Block = np.median(np.stack(chosen), axis=0).astype(np.float32, copy=False)
        return middle
    total: Block = chosen[0] * np.float32(shares[0].weight)
    for share, estimate in zip(shares[1:], chosen[1:], strict=True):
        total += estimate * np.float32(share.weight)
    return total


def combine_spectra(spectra: Tensor, how: Combine, weights: Sequence[float]) -> Tensor:
    """Spectra [M, ...], complex, of M members -> [...]."""
    if how == "avg_fft":
        factors = torch.tensor(weights, dtype=torch.float32).reshape(-1, *[1] * (spectra.ndim - 1))
        return (spectra * factors).sum(dim=0)
    magnitudes = spectra.abs()
    chosen: Tensor = magnitudes.argmin(dim=0) if how == "min_fft" else magnitudes.argmax(dim=0)
    return spectra.gather(0, chosen[None])[0]


def _in_spectra(parts: Iterable[Sequence[Block]], combination: Combination) -> Iterator[Block]:
    """Frame k spans hops k - 1 and k of the track; the hop before the first and those after the last are silence, so
    that two frames lie on every sample."""
    before: list[Tensor] | None = None  # the hop before a chunk, of each member
    tails: list[Tensor | None] = [None] * len(combination.shares)  # what the last frame adds to the next hop
    length = given = 0
    for chunk, real in _chunks(parts, _HOPS_AT_ONCE * HOP):
        if before is None:
            before = [torch.zeros(*part.shape[:-1], HOP) for part in chunk]
        joined = [torch.cat((start, part), dim=-1) for start, part in zip(before, chunk, strict=True)]
        before = [part[..., -HOP:] for part in joined]
        finished = []
        for number, shares in enumerate(combination.shares):
            if len(shares) == 1:  # nothing to combine: not a bit changes
                finished.append(joined[shares[0].member][shares[0].index, :, :-HOP])
                continue
            made, tails[number] = _combined_hops(joined, shares, combination.how, tails[number])
            finished.append(made)
        block = torch.stack(finished)
        if given == 0 and length == 0:
            block = block[..., HOP:]  # the silence before the track
        length += real
        block = block[..., : length - given]
        given += block.shape[-1]
        yield block.numpy()


def _combined_hops(
    joined: Sequence[Tensor], shares: Sequence[Share], how: Combine, tail: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All finished hops of one stem, [C, H * HOP], and what the last frame adds to the next one."""
    window = torch.hann_window(FRAME_LENGTH)
    waves = torch.stack([joined[share.member][share.index] for share in shares])
    frames = waves.unfold(-1, FRAME_LENGTH, HOP) * window  # [M, C, H, FRAME_LENGTH]
    spectra = combine_spectra(torch.fft.rfft(frames), how, [share.weight for share in shares])
    made = torch.fft.irfft(spectra, n=FRAME_LENGTH) * window
    first, second = made[..., :HOP], made[..., HOP:]
    tail = torch.zeros_like(second[:, :1]) if tail is None else tail
    total = first + torch.cat((tail, second[:, :-1]), dim=1)
    energy = window[:HOP].square() + window[HOP:].square()  # of the two frames on a sample
    return (total / energy).flatten(1), second[:, -1:]


def _chunks(parts: Iterable[Sequence[Block]], length: int) -> Iterator[tuple[list[Tensor], int]]:
    """The streams in chunks of `length` samples with the number of real ones; after the end there is as much silence
    as fills hops, and one hop more."""
    waiting: list[Sequence[Block]] = []
    held = 0

    def taken(samples: int) -> list[Tensor]:
        nonlocal waiting, held
        whole = [np.concatenate(blocks, axis=-1) for blocks in zip(*waiting, strict=True)]
        waiting = [[part[..., samples:] for part in whole]]
        held -= samples
        return [torch.from_numpy(part[..., :samples]) for part in whole]

    seen = False
    for estimates in parts:
        seen = seen or bool(estimates[0].shape[-1])
        waiting.append(estimates)
        held += estimates[0].shape[-1]
        if held >= length:
            whole = taken(held // length * length)
            for start in range(0, whole[0].shape[-1], length):
                yield [part[..., start : start + length] for part in whole], length
    if seen:
        real = held
        rest = taken(held)
        silence = -real % HOP + HOP
        yield [torch.nn.functional.pad(part, (0, silence)) for part in rest], real


__all__ = ["Casting", "Combination", "Share", "Voice", "cast_voices", "combine_blocks", "combine_spectra"]
