"""Least-squares projections on delayed references, the heart of BSS Eval, by FFT and in bounded memory.

With references x_1 … x_R (one row per source and channel) and an estimate e, the projection on the span of all
x_r[n - τ], 0 <= τ < 512, is Σ_r w_r * x_r, where the filters w solve the normal equations

    G w = d,    G[(a,τ),(b,σ)] = Σ_n x_a[n-τ] x_b[n-σ] = r_ab[τ-σ],    d[(a,τ)] = Σ_n x_a[n-τ] e[n].

G is made of Toeplitz blocks, so both sides are cross-correlations at lags 0 … 511 only; they are summed over short FFT
blocks, never over an FFT of the whole song. One Cholesky factor serves all estimates of all systems. The decomposition
itself runs window by window. Memory: 8·(R·512)² bytes for G (134 MB for four stereo stems) and a few windows, whatever
the length of the song.

Vincent, Gribonval, Févotte, "Performance measurement in blind audio source separation", IEEE TASLP 14(4), 2006.
Checked against museval 0.4.1 and mir_eval 0.8.2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

Signal = NDArray[np.float32]  # [C, T]; may lie on disk (a memory map), only slices of it are read
Samples = NDArray[np.float64]
Spectrum = NDArray[np.complex128]
Window = tuple[int, int]  # [first, last) in samples

FILTER_LENGTH = 512
# FFT length of the correlations: 8192 gives 7681 new samples for 511 of overlap.
_CORRELATION_FFT = 8192
_BLOCKS_AT_ONCE = 16
# Windows decomposed at the same time (NumPy lets go of the interpreter); each takes some ten megabytes.
_THREADS = 4
# Samples of a projection computed at once; windows of one second at 48 kHz fit.
_BLOCK = 65536
# Ridges tried, relative to the mean energy, where references depend on each other (the same signal in both channels).
_RIDGES = (1e-13, 1e-11, 1e-9, 1e-7)


@dataclass(frozen=True)
class Energies:
    """Energies of the parts of estimates, each [E, W]: estimates × windows.

    With s the reference's image, e the estimate, p its projection on the own reference, P its projection on all:

    Attributes:
        image: ‖s‖².
        error: ‖e - s‖².
        spatial: ‖p - s‖², the filtering ("spatial") error.
        own: ‖p‖².
        residual: ‖e - p‖².
        interference: ‖P - p‖².
        joint: ‖P‖².
        artifacts: ‖e - P‖².
    """

    image: Samples
    error: Samples
    spatial: Samples
    own: Samples
    residual: Samples
    interference: Samples
    joint: Samples
    artifacts: Samples


@dataclass(frozen=True)
class Filters:
    """Projection filters: `joint` [E, C, R, 512] on all references, `own` [E, C, C, 512] on the estimate's own."""

    joint: Samples
    own: Samples


class ReferenceSpace:
    """The span of references and their delays, within one stretch of time.

    Args:
        references: S signals [C, T], none of them silent in the stretch.
        first, last: the stretch, in samples; None is the end.
        filter_length: delays.
    """

    def __init__(
        self,
        references: Sequence[Signal],
        *,
        first: int = 0,
        last: int | None = None,
        filter_length: int = FILTER_LENGTH,
    ) -> None:
        self.references = references
        self.channels = references[0].shape[0]
        self.first = first
        self.last = references[0].shape[1] if last is None else last
        self.filter_length = filter_length
        lags = correlations(references, references, self.first, self.last, filter_length)
        self._joint = _factor(lags)
        self._own: dict[int, Any] = {}
        self._lags = lags

    def filters(self, estimates: Sequence[Signal], targets: Sequence[int]) -> Filters:
        """Filters that project each estimate on all references and on the one it estimates.

        Args:
            estimates: E signals [C, T].
            targets: for each the index of its reference.
        """
        channels, length = self.channels, self.filter_length
        sides = correlations(self.references, estimates, self.first, self.last, length)  # [R, E·C, L]
        joint = _solve(self._joint, sides)
        own = []
        for index, target in enumerate(targets):
            rows = slice(target * channels, (target + 1) * channels)
            if target not in self._own:
                self._own[target] = _factor(self._lags[rows, rows])
            own.append(_solve(self._own[target], sides[rows, index * channels : (index + 1) * channels]))
        return Filters(joint.reshape(len(estimates), channels, -1, length), np.stack(own))

    def energies(
        self, estimates: Sequence[Signal], targets: Sequence[int], windows: Sequence[Window], filters: Filters
    ) -> Energies:
        """Decompose the estimates in each window, as if nothing sounded outside of it."""

        def run(window: Window) -> Samples:
            return self._window(estimates, targets, filters, *window)

        first = run(windows[0])  # the filters' spectra are kept from here on
        with ThreadPoolExecutor(max_workers=min(_THREADS, os.cpu_count() or 1)) as pool:
            return Energies(*np.stack([first, *pool.map(run, windows[1:])], axis=-1))

    def _window(
        self, estimates: Sequence[Signal], targets: Sequence[int], filters: Filters, first: int, last: int
    ) -> Samples:
        """[8, E] energies of one window; the tail of the filters beyond its end counts, as in museval."""
        tail = self.filter_length - 1
        block = min(_BLOCK, last - first + tail)
        size = int(scipy.fft.next_fast_len(block + tail, real=True))
        joint, own = self._responses(filters, size)
        rows = [slice(target * self.channels, (target + 1) * self.channels) for target in targets]
        total = np.zeros((len(fields(Energies)), len(targets)))
        for start in range(first, last + tail, block):
            stop = min(start + block, last + tail)
            before = min(tail, start - first)
            heard = _rows(self.references, start - before, stop, first, last)
            spectra = scipy.fft.rfft(heard, n=size)
            estimate = _rows(estimates, start, stop, first, last).reshape(len(targets), self.channels, -1)
            for index, row in enumerate(rows):
                image = heard[row, before:]
                all_ = _filtered(joint[index], spectra, size)[:, before : before + stop - start]
                one = _filtered(own[index], spectra[row], size)[:, before : before + stop - start]
                part = estimate[index]
                parts = (image, part - image, one - image, one, part - one, all_ - one, all_, part - all_)
                total[:, index] += [float(np.einsum("cn,cn->", signal, signal)) for signal in parts]
        return total

    def _responses(self, filters: Filters, size: int) -> tuple[Spectrum, Spectrum]:
        cached = getattr(self, "_cache", None)
        if cached is None or cached[0] is not filters or cached[1] != size:
            cached = (filters, size, scipy.fft.rfft(filters.joint, n=size), scipy.fft.rfft(filters.own, n=size))
            self._cache = cached
        return cached[2], cached[3]


def _filtered(responses: Spectrum, spectra: Spectrum, size: int) -> Samples:
    """[C, R, F] filters of [R, F] spectra, summed: [C, size]."""
    product: Spectrum = np.einsum("crf,rf->cf", responses, spectra)
    result: Samples = scipy.fft.irfft(product, n=size)
    return result


def correlations(
    left: Sequence[Signal], right: Sequence[Signal], first: int, last: int, length: int = FILTER_LENGTH
) -> Samples:
    """r[a, b, ℓ] = Σ_n left_a[n] · right_b[n + ℓ] for 0 <= ℓ < `length`, rows being signals × channels.

    What lies outside [first, last) counts as silence.
    """
    size = max(_CORRELATION_FFT, int(scipy.fft.next_fast_len(4 * length, real=True)))
    step = size - length + 1
    total: Any = 0.0
    for start in range(first, last, step * _BLOCKS_AT_ONCE):
        count = min(_BLOCKS_AT_ONCE, -(-(last - start) // step))
        stop = start + count * step
        lefts = _rows(left, start, stop, first, last)
        rights = _rows(right, start, stop + length - 1, first, last)
        pieces = np.lib.stride_tricks.sliding_window_view(rights, size, axis=-1)[:, ::step]
        a = scipy.fft.rfft(lefts.reshape(len(lefts), count, step), n=size)
        b = scipy.fft.rfft(pieces)
        # One small matrix product over the blocks for every frequency: [F, A, N] @ [F, N, B].
        total = total + np.matmul(
            np.ascontiguousarray(a.conj().transpose(2, 0, 1)), np.ascontiguousarray(b.transpose(2, 1, 0))
        )
    result: Samples = scipy.fft.irfft(total, n=size, axis=0)[:length].transpose(1, 2, 0)
    return np.ascontiguousarray(result)


def _rows(signals: Sequence[Signal], start: int, stop: int, first: int, last: int) -> Samples:
    """[S·C, stop - start] in float64; zeros where that is outside [first, last)."""
    channels = signals[0].shape[0]
    rows = np.zeros((len(signals) * channels, stop - start))
    low, high = max(start, first), min(stop, last)
    if low < high:
        for index, signal in enumerate(signals):
            rows[index * channels : (index + 1) * channels, low - start : high - start] = signal[:, low:high]
    return rows


def _gram(lags: Samples) -> Samples:
    """G from correlations [R, R, L]: [R·L, R·L]."""
    rows, _, length = lags.shape
    gram = np.empty((rows, length, rows, length))
    for a in range(rows):
        for b in range(rows):
            # lag 511 … -511; row τ of the Toeplitz block begins at lag τ
            both = np.concatenate([lags[a, b, ::-1], lags[b, a, 1:]])
            gram[a, :, b] = np.lib.stride_tricks.sliding_window_view(both, length)[::-1]
    return gram.reshape(rows * length, rows * length)


def _factor(lags: Samples) -> Any:
    """Cholesky factor of G, with a ridge where G is singular."""
    epsilon = float(np.finfo(np.float64).eps)  # museval's ridge
    energy = float(np.mean(lags[range(len(lags)), range(len(lags)), 0]))
    for ridge in (epsilon, *(relative * energy for relative in _RIDGES)):
        gram = _gram(lags)
        gram[np.diag_indices_from(gram)] += ridge
        try:
            # G is symmetric: its transpose is the column-major array that LAPACK wants, and works in without a copy.
            return scipy.linalg.cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
    raise ArithmeticError("the references' correlations are not those of real signals")  # pragma: no cover


def _solve(factor: Any, sides: Samples) -> Samples:
    """Filters [B, A, L] for right-hand sides [A, B, L]."""
    rows, columns, length = sides.shape
    flat = np.ascontiguousarray(sides.transpose(0, 2, 1)).reshape(rows * length, columns)
    solved = scipy.linalg.cho_solve(factor, flat, check_finite=False)
    return np.ascontiguousarray(solved.reshape(rows, length, columns).transpose(2, 0, 1))


def windows_of(length: int, window: int, hop: int) -> list[Window]:
    """Windows of a song: whole ones only, or one shorter one where not even one fits."""
    if window >= length:
        return [(0, length)]
    return [(start, start + window) for start in range(0, length - window + 1, hop)]


def blocks_of(length: int, step: int = 1 << 18) -> Iterator[slice]:
    """Slices that cover [0, length)."""
    for start in range(0, length, step):
        yield slice(start, min(length, start + step))
