"""Metrics of separation quality, in dB: functions of arrays.

s is the reference, e its estimate, x the mixture, all [C, T]; p is the least-squares projection of e on the own
reference delayed by 0 … 511 samples (all channels), P the projection on all references; see `projection.py`.

    BSS Eval images (v4, v3 images)         BSS Eval sources (v3)
    SDR = ‖s‖² / ‖e - s‖²                   SDR = ‖p‖² / ‖e - p‖²
    ISR = ‖s‖² / ‖p - s‖²
    SIR = ‖p‖² / ‖P - p‖²                   SIR = ‖p‖² / ‖P - p‖²
    SAR = ‖P‖² / ‖e - P‖²                   SAR = ‖P‖² / ‖e - P‖²

    v4            filters of the whole song, energies in frames of 1 s; median of frames, then of tracks
    v3 frames     filters of each frame
    v3            one window, the whole song

    SI-SDR = ‖a s‖² / ‖e - a s‖², a = <e, s> / ‖s‖²         NSDR = SDR(e, s) - SDR(x, s)
    SDR    = (‖s‖² + δ) / (‖s - e‖² + δ), δ = 1e-7, over the whole song ("plain")

"Not defined" is NaN, never a large number: a silent reference has no score; neither has a silent estimate in BSS Eval
(its SIR and SAR are 0/0). A frame in which any reference or estimate is silent is not defined for all of them, as in
museval; a stem that is silent all through is left out of that rule and of the references, where museval refuses the
song.

Vincent, Gribonval, Févotte 2006 (BSS Eval); Vincent et al. 2007 and 2012 (images); Stöter, Liutkus, Ito, "The 2018
Signal Separation Evaluation Campaign" (v4, arXiv 1804.06267); Le Roux et al., "SDR – half-baked or well done?"
(SI-SDR, arXiv 1811.02508); Mitsufuji et al., "Music Demixing Challenge 2021" (plain SDR, arXiv 2108.13559); Ozerov et
al. 2007, Hsu and Jang 2010 (NSDR, GNSDR).

Published scores come from 16-bit files, and that matters: references without content above some frequency (decoded
AAC, mp3) make the normal equations singular, and SIR and SAR meaningless, unless they are rounded: see `to_16_bit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmixcli.evaluation.projection import (
    FILTER_LENGTH,
    Energies,
    ReferenceSpace,
    Samples,
    Signal,
    Window,
    blocks_of,
    windows_of,
)

# Energy added to both sides of the plain SDR (Music Demixing Challenge 2021).
PLAIN_DELTA = 1e-7


@dataclass(frozen=True)
class BssScores:
    """dB of each estimate in each window, [E, W]; NaN where not defined. `isr` is NaN in the sources version."""

    sdr: Samples
    isr: Samples
    sir: Samples
    sar: Samples


class References:
    """The sources of a song, prepared once for any number of estimates.

    Args:
        signals: S arrays [C, T]; silent ones are left out of the projections.
        filter_length: delays of the projections.
    """

    def __init__(self, signals: Sequence[Signal], *, filter_length: int = FILTER_LENGTH) -> None:
        shapes = {signal.shape for signal in signals}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(f"references of shapes {sorted(shapes)}, expected one shape [C, T]")
        self.signals = list(signals)
        self.length = self.signals[0].shape[1]
        self.filter_length = filter_length
        self.silent = [is_silent(signal) for signal in self.signals]
        self._space: ReferenceSpace | None = None

    @property
    def heard(self) -> list[int]:
        """Indices of the references that are not silent."""
        return [index for index, silent in enumerate(self.silent) if not silent]

    def space(self) -> ReferenceSpace:
        """The span of the whole song, computed once."""
        if self._space is None:
            signals = [self.signals[index] for index in self.heard]
            self._space = ReferenceSpace(signals, filter_length=self.filter_length)
        return self._space


def bss_eval(
    references: References | Sequence[Signal],
    estimates: Sequence[Signal],
    *,
    targets: Sequence[int] | None = None,
    window: int | None = None,
    hop: int | None = None,
    framewise_filters: bool = False,
    sources: bool = False,
) -> BssScores:
    """BSS Eval in any of its versions; no permutations are tried.

    Args:
        references: S signals [C, T].
        estimates: E signals [C, T].
        targets: the reference of each estimate; None: the first, the second …
        window: samples of a window; None: the whole song.
        hop: samples between windows; None: `window`.
        framewise_filters: filters of each window (v3 frames), not of the song (v4).
        sources: the sources version, else images.

    Raises:
        ValueError: shapes that don't fit.
    """
    prepared = references if isinstance(references, References) else References(references)
    targets = list(range(len(estimates))) if targets is None else list(targets)
    shape = prepared.signals[0].shape
    if len(targets) != len(estimates) or any(not 0 <= target < len(prepared.signals) for target in targets):
        raise ValueError(f"{len(estimates)} estimates for the references {targets} of {len(prepared.signals)}")
    for estimate in estimates:
        if estimate.shape != shape:
            raise ValueError(f"an estimate of shape {estimate.shape}, expected {shape} as the references")
    windows = [(0, prepared.length)] if window is None else windows_of(prepared.length, window, hop or window)
    scores = np.full((4, len(estimates), len(windows)), np.nan)
    heard = prepared.heard
    scored = [i for i, target in enumerate(targets) if target in heard and not is_silent(estimates[i])]
    if scored:
        used = [prepared.signals[index] for index in heard]
        chosen = [estimates[i] for i in scored]
        places = [heard.index(targets[i]) for i in scored]
        alive = [w for w, span in enumerate(windows) if not _any_silent([*used, *chosen], span)]
        spans = [windows[w] for w in alive]
        if spans:
            energies = _energies(prepared, used, chosen, places, spans, framewise_filters)
            scores[np.ix_(range(4), scored, alive)] = ratios(energies, sources=sources)
    return BssScores(*scores)


def _energies(
    prepared: References,
    used: Sequence[Signal],
    estimates: Sequence[Signal],
    targets: Sequence[int],
    spans: Sequence[Window],
    framewise_filters: bool,
) -> Energies:
    if not framewise_filters:
        space = prepared.space()
        return space.energies(estimates, targets, spans, space.filters(estimates, targets))
    parts = []
    for first, last in spans:
        space = ReferenceSpace(used, first=first, last=last, filter_length=prepared.filter_length)
        parts.append(space.energies(estimates, targets, [(first, last)], space.filters(estimates, targets)))
    return Energies(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in vars(parts[0])))


def ratios(energies: Energies, *, sources: bool = False) -> Samples:
    """SDR, ISR, SIR, SAR in dB, [4, E, W]; +inf where nothing is wrong. The formulas of the module's docstring."""
    if sources:
        sdr, isr = decibel(energies.own, energies.residual), np.full_like(energies.own, np.nan)
    else:
        sdr, isr = decibel(energies.image, energies.error), decibel(energies.image, energies.spatial)
    return np.stack(
        [sdr, isr, decibel(energies.own, energies.interference), decibel(energies.joint, energies.artifacts)]
    )


def bss_eval_v4(
    references: References | Sequence[Signal],
    estimates: Sequence[Signal],
    *,
    sample_rate: int,
    targets: Sequence[int] | None = None,
    window_seconds: float = 1.0,
    hop_seconds: float | None = None,
) -> BssScores:
    """BSS Eval v4 as museval's `eval_mus_track`: images, filters of the song, frames of 1 s without overlap."""
    window, hop = int(window_seconds * sample_rate), int((hop_seconds or window_seconds) * sample_rate)
    return bss_eval(references, estimates, targets=targets, window=window, hop=hop)


def si_sdr(reference: Signal, estimate: Signal) -> float:
    """Scale-invariant SDR in dB, one scale for all channels; NaN where one of them is silent.

    Args:
        reference, estimate: [C, T].
    """
    ss, se, ee = _products(reference, estimate)
    if ss == 0.0 or ee == 0.0:
        return float("nan")
    scale = se / ss
    error = sum(_energy(estimate[:, part] - scale * _double(reference[:, part])) for part in _parts(reference))
    return float(decibel(np.float64(scale * scale * ss), np.float64(error)))


def plain_sdr(reference: Signal, estimate: Signal) -> float:
    """SDR over the whole song in dB, with δ = 1e-7 on both sides; NaN for a silent reference.

    Args:
        reference, estimate: [C, T].
    """
    signal = sum(_energy(reference[:, part]) for part in _parts(reference))
    if signal == 0.0:
        return float("nan")
    error = sum(_energy(_double(reference[:, part]) - estimate[:, part]) for part in _parts(reference))
    return float(10 * np.log10((signal + PLAIN_DELTA) / (error + PLAIN_DELTA)))


def level_db(signal: Signal, other: Signal) -> float:
    """Energy of a signal relative to another's, dB; -inf for silence, NaN beside silence."""
    own = sum(_energy(signal[:, part]) for part in _parts(signal))
    against = sum(_energy(other[:, part]) for part in _parts(other))
    return float(decibel(np.float64(own), np.float64(against))) if against else float("nan")


def difference_db(signal: Signal, other: Signal) -> float:
    """Energy of signal - other relative to the other's, dB."""
    error = sum(_energy(_double(signal[:, part]) - other[:, part]) for part in _parts(other))
    against = sum(_energy(other[:, part]) for part in _parts(other))
    return float(decibel(np.float64(error), np.float64(against))) if against else float("nan")


def median(values: Sequence[float] | Samples) -> float:
    """The middle of what is defined: NaN and infinities are left out, as museval does; NaN where nothing is left."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    return float(np.median(numbers)) if numbers.size else float("nan")


def weighted_mean(values: Sequence[float] | Samples, lengths: Sequence[float]) -> float:
    """Σ length · value / Σ length over what is finite: GNSDR, GSIR and GSAR from NSDR, SIR and SAR of clips."""
    numbers, weights = np.asarray(values, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    defined = np.isfinite(numbers)
    total = weights[defined].sum()
    return float((numbers[defined] * weights[defined]).sum() / total) if total > 0 else float("nan")


def to_16_bit(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the steps of a 16-bit file, without its limit at full scale (a mixture's sum may lie above)."""
    rounded: NDArray[np.float32] = np.rint(samples * np.float32(32768)) / np.float32(32768)
    return rounded


def decibel(numerator: NDArray[np.float64] | np.float64, denominator: NDArray[np.float64] | np.float64) -> Samples:
    """10 log10 of a ratio of energies: inf over zero, -inf of zero, NaN for 0/0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Samples = 10 * np.log10(np.divide(numerator, denominator))
    return result


def is_silent(signal: Signal) -> bool:
    """Nothing but zeros."""
    return not any(bool(signal[:, part].any()) for part in blocks_of(signal.shape[1]))


def _any_silent(signals: Sequence[Signal], span: Window) -> bool:
    return any(not signal[:, span[0] : span[1]].any() for signal in signals)


def _parts(signal: Signal) -> list[slice]:
    return list(blocks_of(signal.shape[1]))


def _double(samples: NDArray[np.float32]) -> Samples:
    return samples.astype(np.float64)


def _energy(samples: NDArray[np.float32] | Samples) -> float:
    doubled = samples.astype(np.float64)
    return float(np.einsum("cn,cn->", doubled, doubled))  # no BLAS: its threads cost more than they give here


def _products(reference: Signal, estimate: Signal) -> tuple[float, float, float]:
    ss = se = ee = 0.0
    for part in _parts(reference):
        s, e = _double(reference[:, part]), _double(estimate[:, part])
        ss, se, ee = ss + float((s * s).sum()), se + float((s * e).sum()), ee + float((e * e).sum())
    return ss, se, ee
