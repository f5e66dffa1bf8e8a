"""What the classical separators share: a short-time Fourier transform, a running median, and masks.

They have no weights. Each finds all of its stems but the last in the spectrogram; the last one is the mixture without
the others, so that the stems sum to the mixture to the last bit of float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.spectrum import istft, stft

# Elements that one step of the median network works on: 31 planes of them stay in the cache (measured: 41 ns per
# median of 31 on two cores; 8192 take 71 ns, 131072 take 47 ns, `torch.median` 225 ns).
MEDIAN_ELEMENTS = 32768


class ClassicalMethod(SeparationModel):
    """A separator without weights.

    A subclass names `all_stems` and `defaults` (its configuration: name -> number) and writes `extract`.

    Args:
        config: values that replace some of `defaults`.
        stems: the stems to compute.

    Raises:
        CheckpointError: an unknown name, or a value out of range (an integer >= 1 where the default is one, else >= 0).
    """

    all_stems: ClassVar[tuple[str, ...]]
    defaults: ClassVar[Mapping[str, float]]
    has_weights = False
    edge_padding = "none"

    def __init__(self, config: Mapping[str, Any] | None = None, stems: Sequence[str] | None = None) -> None:
        super().__init__()
        self.config = self._checked(config or {})
        self.stems = tuple(self.all_stems if stems is None else stems)
        unknown = [stem for stem in self.stems if stem not in self.all_stems]
        if unknown or not self.stems:
            raise CheckpointError(
                f"{type(self).__name__} gives {', '.join(self.all_stems)}; asked for were {', '.join(self.stems)!r}."
            )
        self.covers_mixture = set(self.stems) == set(self.all_stems)
        self.sample_rate = int(self.config["sample_rate"])
        self.edge = round(self.config["edge_seconds"] * self.sample_rate)
        self.segment_length = round(self.config["segment_seconds"] * self.sample_rate)
        self.overlap = self.config["overlap"]
        if self.overlap >= 1:
            raise CheckpointError(f"overlap is {self.overlap}, expected a fraction less than 1.")
        if self.segment_length <= 2 * self.edge:
            raise CheckpointError(
                f"segment_seconds is {self.config['segment_seconds']}, expected more than twice edge_seconds "
                f"({self.config['edge_seconds']})."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> ClassicalMethod:
        """Build the method; see the class for `config`."""
        return cls(config, stems)

    @classmethod
    def _checked(cls, config: Mapping[str, Any]) -> dict[str, float]:
        for name, value in config.items():
            if name not in cls.defaults:
                raise CheckpointError(
                    f"{cls.__name__} has no setting {name!r}; it has {', '.join(sorted(cls.defaults))}."
                )
            default = cls.defaults[name]
            kind = int if isinstance(default, int) else (int, float)
            least = 1 if isinstance(default, int) else 0
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < 1e9:
                raise CheckpointError(f"{cls.__name__}: {name} is {value!r}, expected a number like {default}.")
        return {**cls.defaults, **config}

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """All stems but the last of `all_stems`: name -> wave [C, T], from the mixture [C, T]."""
        raise TypeError(f"{type(self).__name__} does not say how it separates")

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate. mixture [B, C, T] -> estimates [B, S, C, T]."""
        return torch.stack([self._separate(item) for item in mixture])

    def _separate(self, mixture: Tensor) -> Tensor:
        *found, last = self.all_stems
        waves = self.extract(mixture)
        if last in self.stems:
            waves[last] = mixture - sum(waves[stem] for stem in found)
        return torch.stack([waves[stem] for stem in self.stems])


class MaskingMethod(ClassicalMethod):
    """A separator that masks the mixture's spectrogram: `n_fft` and `hop` are among its `defaults`."""

    def __init__(self, config: Mapping[str, Any] | None = None, stems: Sequence[str] | None = None) -> None:
        super().__init__(config, stems)
        self.n_fft = int(self.config["n_fft"])
        self.hop = int(self.config["hop"])
        if self.hop > self.n_fft // 2:
            raise CheckpointError(f"hop is {self.hop}, expected at most half of n_fft ({self.n_fft}).")
        # Segments start on the grid of frames, so that a segment sees the frames the whole song would give.
        self.segment_multiple = self.largest_hop()
        self.edge -= self.edge % self.segment_multiple

    def largest_hop(self) -> int:
        """Samples between frames, of the coarsest grid of frames the method uses."""
        return self.hop

    def spectrum(self, wave: Tensor) -> Tensor:
        """[C, T] -> complex [C, F, N], with the settings' frames."""
        return stft(wave, self.n_fft, self.hop)

    def wave(self, spectrum: Tensor, length: int) -> Tensor:
        """The inverse of `spectrum`."""
        return istft(spectrum, self.n_fft, self.hop, length)


def masked(spectrum: Tensor, mask: Tensor) -> Tensor:
    """complex [..., F, N] times real [..., F, N], without making the mask complex first."""
    return torch.view_as_complex(torch.view_as_real(spectrum) * mask[..., None])


def ratio_mask(part: Tensor, rest: Tensor, power: float = 2.0) -> Tensor:
    """part^p / (part^p + rest^p), one half where both are zero.

    Both are divided by the larger of the two first: squares of quiet spectra would fall out of float32.
    """
    larger = torch.maximum(part, rest)
    silent = larger < torch.finfo(larger.dtype).tiny
    larger.masked_fill_(silent, 1.0)
    part, rest = (part / larger).pow_(power), (rest / larger).pow_(power)
    return part.div_(rest.add_(part)).masked_fill_(silent, 0.5)


def median_filter(image: Tensor, size: int, dim: int) -> Tensor:
    """Running median along one of the last two axes, of [..., F, N]; the ends are mirrored (d c b a | a b c d).

    The same values as `scipy.ndimage.median_filter(mode="reflect")`, in a fraction of the time.

    Args:
        image: float32.
        size: odd number of neighbours.
        dim: -1 (along time) or -2 (along frequency).
    """
    count = image.shape[dim]
    period = 2 * count
    index = torch.remainder(torch.arange(-(size // 2), count + size // 2, device=image.device), period)
    padded = image.index_select(dim, torch.minimum(index, period - 1 - index))
    other = -3 - dim  # the axis that is cut into blocks
    rows = max(1, MEDIAN_ELEMENTS // max(1, image[..., 0, 0].numel() * count))
    result = torch.empty_like(image)
    median = Median(size)
    for start in range(0, image.shape[other], rows):
        block = padded.narrow(other, start, min(rows, image.shape[other] - start))
        planes = median.planes(block.narrow(dim, 0, count))
        for shift in range(size):
            planes[shift].copy_(block.narrow(dim, shift, count))
        result.narrow(other, start, block.shape[other]).copy_(median())
    return result


class Median:
    """Elementwise median of `count` tensors of one shape, `count` odd.

    A sorting network whose comparators do not depend on the data: minimum and maximum of whole planes instead of a
    small sort per element. The planes are kept from call to call: memory that is given back and taken again for every
    comparator costs up to fifteen times the arithmetic.
    """

    def __init__(self, count: int) -> None:
        if count < 1 or count % 2 == 0:
            raise ValueError(f"the median of {count} tensors is not one of them, expected an odd number")
        self._network = _median_network(count)
        self._count = count
        self._planes = torch.empty(0)

    def planes(self, like: Tensor) -> Tensor:
        """Where to write the tensors: [count, *like.shape]. The next call of the object sorts them in place."""
        if self._planes.shape[1:] != like.shape:
            self._planes = torch.empty(self._count + 1, *like.shape, dtype=like.dtype, device=like.device)
        return self._planes[:-1]

    def __call__(self) -> Tensor:
        """The median of what was written into `planes`; valid until they are written again."""
        *lanes, spare = self._planes.unbind()
        for low, high, keep_low, keep_high in self._network:
            first, second = lanes[low], lanes[high]
            if keep_low:
                torch.minimum(first, second, out=spare)
                lanes[low], spare = spare, first
            if keep_high:
                # `first` is either in `spare`, to be written over next, or no longer needed.
                torch.maximum(first, second, out=second)
        return lanes[self._count // 2]


@lru_cache(maxsize=16)
def _median_network(count: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Comparators (low, high, minimum needed, maximum needed) that bring the median to the middle lane.

    Batcher's odd-even merge sort (Sorting networks and their applications, AFIPS 1968) without the comparators that
    the middle lane does not depend on.
    """
    comparators: list[tuple[int, int]] = []
    block = 1
    while block < count:
        step = block
        while step >= 1:
            for start in range(step % block, count - step, 2 * step):
                comparators += [
                    (low, low + step)
                    for low in range(start, min(start + step, count - step))
                    if low // (2 * block) == (low + step) // (2 * block)
                ]
            step //= 2
        block *= 2
    needed = {count // 2}
    kept: list[tuple[int, int, bool, bool]] = []
    for low, high in reversed(comparators):
        if low in needed or high in needed:
            kept.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))
