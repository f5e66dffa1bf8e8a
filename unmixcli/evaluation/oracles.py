"""Oracles: the best that masks on the mixture's spectrogram can do, knowing the true sources.

x and s_j are STFTs (Hann, 2048, hop 1024, as the oracles of SiSEC 2018), p an exponent:

    ibm1, ibm2   x where |s_j|^p / (ε + |x|^p) >= 1/2; several sources or none may win a bin
    irm1, irm2   x · |s_j|^p / (ε + Σ_k |s_k|^p)
    mwf          G_j x,  G_j = P_j R_j (Σ_k P_k R_k + ε I)^-1, the multichannel Wiener filter, where
                 R_j = mean over frames of s_j s_j^H / (ε + mean_c |s_j|²), scaled to trace C, plus ε I, and
                 P_j = tr(R_j^-1 s_j s_j^H) / C
    mixture      x / J, no separation at all

Stöter, Liutkus, Ito, "The 2018 Signal Separation Evaluation Campaign", arXiv 1804.06267. Follows the formulas of
sigsep-mus-oracle, whose MWF takes the trace over other axes than the channels. Sources are streamed; memory does not
depend on their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from unmixcli.errors import OptionError
from unmixcli.evaluation.projection import Signal

Spectrum = NDArray[np.complex128]

FFT_LENGTH = 2048
HOP_LENGTH = 1024
_FRAMES_AT_ONCE = 64
_EPSILON = 1e-10

ORACLES = {
    "mixture": "mixture divided by the number of stems",
    "ibm1": "ideal binary mask, magnitudes",
    "ibm2": "ideal binary mask, powers",
    "irm1": "ideal ratio mask, magnitudes",
    "irm2": "ideal ratio mask, powers",
    "mwf": "multichannel Wiener filter of the true sources",
}
_ALIASES = {"ibm": "ibm1", "irm": "irm2"}


def oracle_name(name: str) -> str:
    """The oracle's own name.

    Raises:
        OptionError: there is none.
    """
    word = name.strip().lower()
    word = _ALIASES.get(word, word)
    if word not in ORACLES:
        raise OptionError(f"there is no oracle {name!r}; there are {', '.join(ORACLES)}.")
    return word


def oracle_blocks(name: str, mixture: Signal, references: Sequence[Signal]) -> Iterator[NDArray[np.float32]]:
    """Estimates of all sources by an oracle.

    Args:
        name: in `ORACLES`.
        mixture: [C, T].
        references: J signals [C, T].

    Yields:
        [J, C, t] float32; together T samples.
    """
    signals = [mixture, *references]
    if name == "mixture":
        for start in range(0, mixture.shape[1], 1 << 16):
            part = mixture[:, start : start + (1 << 16)] / np.float32(len(references))
            yield np.stack([part] * len(references))
        return
    if name == "mwf":
        covariances = _covariances(references)
        yield from _filtered(signals, lambda x, s: _wiener(x, s, covariances))
    else:
        exponent = int(name[-1])
        masks = _binary_masks if name.startswith("ibm") else _ratio_masks
        yield from _filtered(signals, lambda x, s: masks(x, s, exponent) * x)


def _binary_masks(x: Spectrum, s: Spectrum, exponent: int) -> NDArray[np.float64]:
    ratio = np.abs(s) ** exponent / (_EPSILON + np.abs(x) ** exponent)
    return (ratio >= 0.5).astype(np.float64)


def _ratio_masks(x: Spectrum, s: Spectrum, exponent: int) -> NDArray[np.float64]:
    power = np.abs(s) ** exponent
    masks: NDArray[np.float64] = power / (_EPSILON + power.sum(axis=0))
    return masks


def _covariances(references: Sequence[Signal]) -> Spectrum:
    """R_j(f): [J, F, C, C]."""
    total: Spectrum | float = 0.0
    for s in _spectra(references):
        power = np.mean(np.abs(s) ** 2, axis=1, keepdims=True)  # [J, 1, N, F]
        whitened = s / np.sqrt(_EPSILON + power)
        total = total + np.einsum("jcnf,jdnf->jfcd", whitened, whitened.conj())
    assert isinstance(total, np.ndarray)
    channels = total.shape[-1]
    trace = np.einsum("jfcc->jf", total).real[..., None, None]
    identity = np.eye(channels)
    normal: Spectrum = np.where(trace > 0, total * channels / np.maximum(trace, 1e-300), identity)
    return normal + _EPSILON * identity


def _wiener(x: Spectrum, s: Spectrum, covariances: Spectrum) -> Spectrum:
    channels = x.shape[0]
    inverse = np.linalg.inv(covariances)
    power = np.maximum(np.einsum("jcnf,jfcd,jdnf->jnf", s.conj(), inverse, s, optimize=True).real / channels, 0.0)
    model = power[..., None, None] * covariances[:, None]  # [J, N, F, C, C]
    total = model.sum(axis=0) + _EPSILON * np.eye(channels)
    weighted = np.linalg.solve(total, x.transpose(1, 2, 0)[..., None])  # [N, F, C, 1]
    return np.ascontiguousarray((model @ weighted)[..., 0].transpose(0, 3, 1, 2))


def _window() -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_LENGTH) / FFT_LENGTH)


def _spectra(signals: Sequence[Signal]) -> Iterator[Spectrum]:
    """[K, C, N, F] of some frames at a time; frame n is centred on sample n · hop, silence lies outside."""
    channels, length = signals[0].shape
    frames = -(-length // HOP_LENGTH) + 1
    for first in range(0, frames, _FRAMES_AT_ONCE):
        count = min(_FRAMES_AT_ONCE, frames - first)
        start = first * HOP_LENGTH - FFT_LENGTH // 2
        heard = np.zeros((len(signals), channels, (count - 1) * HOP_LENGTH + FFT_LENGTH))
        low, high = max(start, 0), min(start + heard.shape[-1], length)
        for index, signal in enumerate(signals):
            heard[index, :, low - start : high - start] = signal[:, low:high]
        pieces = np.lib.stride_tricks.sliding_window_view(heard, FFT_LENGTH, axis=-1)[:, :, ::HOP_LENGTH]
        yield scipy.fft.rfft(pieces * _window())


def _filtered(
    signals: Sequence[Signal], estimate: Callable[[Spectrum, Spectrum], Spectrum]
) -> Iterator[NDArray[np.float32]]:
    """Estimates [J, C, t] made of the spectra of the mixture (the first signal) and the sources."""
    length = signals[0].shape[1]
    window, overlap = _window(), FFT_LENGTH - HOP_LENGTH
    carry: NDArray[np.float64] | None = None
    # Analysis and synthesis window together weigh each sample with w²(n) + w²(n + hop).
    weight = window[:HOP_LENGTH] ** 2 + window[HOP_LENGTH:] ** 2
    position = -(FFT_LENGTH // 2)
    for spectra in _spectra(signals):
        frames = scipy.fft.irfft(estimate(spectra[0], spectra[1:]), n=FFT_LENGTH) * window  # [J, C, N, L]
        stems, channels, count, _ = frames.shape
        mixed = np.zeros((stems, channels, (count + 1) * HOP_LENGTH))
        mixed[..., : count * HOP_LENGTH] += frames[..., :HOP_LENGTH].reshape(stems, channels, -1)
        mixed[..., HOP_LENGTH:] += frames[..., HOP_LENGTH:].reshape(stems, channels, -1)
        if carry is not None:
            mixed[..., :overlap] += carry
        carry = mixed[..., -overlap:]
        done = mixed[..., :-overlap] / np.tile(weight, count)
        low, high = max(0, -position), min(done.shape[-1], length - position)
        if low < high:
            yield done[..., low:high].astype(np.float32)
        position += done.shape[-1]
