"""Augmentations of dynamics: gains that change in time.

`compressor` works on every stem by itself. The others stand on the bus: the gain of each sample is found on the sum of
the stems and every stem is multiplied by it, so that the stems go on adding up to the processed mixture. For a clipper,
whose gain changes from sample to sample, that shares the distortion among the stems in proportion to what they have in
that sample.

The compressor is the feed-forward design with a smooth knee and detection in dB of "Digital Dynamic Range Compressor
Design" (Giannoulis, Massberg and Reiss, JAES 2012), its level taken over blocks of 64 samples.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from unmixcli.training.augment_checks import check_range

Samples = NDArray[np.float32]
Rng = np.random.Generator

# Samples for one value of a gain curve: 1.5 ms at 44.1 kHz.
_BLOCK = 64
_KNEE_DB = 6.0
# Below this peak there is nothing to work on.
_SILENT = 1e-5
# Of a loud master: just under full scale, as mastering engineers leave it.
_CEILING = 0.98


def compressor(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    low_ratio: float = 1.5,
    high_ratio: float = 6.0,
    low_db: float = 3.0,
    high_db: float = 15.0,
) -> Samples:
    """Every stem through a compressor of its own.

    Args:
        low_ratio, high_ratio: dB in for one dB out, above the threshold.
        low_db, high_db: how far the threshold lies under the stem's loud moments.
    """
    _check_compressor(low_ratio, high_ratio, low_db, high_db)
    for place in np.ndindex(audio.shape[:-2]):
        curve = _curve(audio[place], rng, sample_rate, (low_ratio, high_ratio), (low_db, high_db))
        if curve is not None:
            np.multiply(audio[place], curve, out=audio[place])
    return audio


def bus_compressor(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    low_ratio: float = 1.5,
    high_ratio: float = 4.0,
    low_db: float = 2.0,
    high_db: float = 10.0,
) -> Samples:
    """All stems together through one compressor; the settings are those of `compressor`."""
    _check_compressor(low_ratio, high_ratio, low_db, high_db)
    for item in items(audio):
        curve = _curve(bus(item), rng, sample_rate, (low_ratio, high_ratio), (low_db, high_db))
        if curve is not None:
            np.multiply(item, curve, out=item)
    return audio


def limiter(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    low_db: float = 1.0,
    high_db: float = 8.0,
    lookahead_ms: float = 3.0,
    release_ms: float = 80.0,
) -> Samples:
    """The mixture raised by `low_db` to `high_db` above where its peak would touch full scale, and its peaks held down.

    The gain is found a moment ahead and moves in straight lines, so nothing is clipped.
    """
    check_range("low_db", low_db, "high_db", high_db, 0, 40)
    check_range("lookahead_ms", lookahead_ms, "release_ms", release_ms, 0, 10000)
    for item in items(audio):
        curve = _limit(bus(item), float(rng.uniform(low_db, high_db)), sample_rate, lookahead_ms, release_ms)
        np.multiply(item, curve, out=item)
    return audio


def clipper(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    low_db: float = 0.5,
    high_db: float = 6.0,
    soft_share: float = 0.5,
) -> Samples:
    """The mixture raised by `low_db` to `high_db` above full scale and cut there, as loud masters are.

    Args:
        soft_share: probability of rounded corners (tanh) in place of sharp ones.
    """
    check_range("low_db", low_db, "high_db", high_db, 0, 40)
    check_range("0", 0.0, "soft_share", soft_share, 0, 1)
    for item in items(audio):
        curve = _clip(bus(item), float(rng.uniform(low_db, high_db)), bool(rng.random() < soft_share))
        np.multiply(item, curve, out=item)
    return audio


def items(audio: Samples) -> list[Samples]:
    """Views of each [S, 2, T] of a batch; what has no axis of items is one."""
    return [audio] if audio.ndim <= 3 else [audio[place] for place in np.ndindex(audio.shape[:-3])]


def bus(audio: Samples) -> Samples:
    """The mixture [..., 2, T] of stems [..., S, 2, T]; audio without an axis of stems is its own."""
    mixture: Samples = audio.sum(axis=-3) if audio.ndim > 2 else audio
    return mixture


def _limit(mixture: Samples, drive_db: float, sample_rate: int, lookahead_ms: float, release_ms: float) -> Samples:
    """Gain [T] of the limiter for a mixture [2, T]."""
    peak = _peak(mixture)
    if peak < _SILENT:
        return np.ones(mixture.shape[-1], np.float32)
    drive = 10 ** (drive_db / 20) * _CEILING / peak
    needed = np.minimum(1, _CEILING / np.maximum(_levels(mixture) * drive, 1e-9))
    ahead = max(1, round(lookahead_ms * sample_rate / 1000 / _BLOCK))
    lowest = scipy.ndimage.minimum_filter1d(needed, 2 * ahead + 1, mode="nearest")
    held = _follow(lowest.tolist(), 0.0, _decay(release_ms / 1000, sample_rate))
    smooth = scipy.ndimage.uniform_filter1d(np.asarray(held), 2 * ahead + 1, mode="nearest")
    return _at_samples(np.minimum(smooth, needed), mixture.shape[-1], np.float32(drive))


def _clip(mixture: Samples, drive_db: float, soft: bool) -> Samples:
    """Gain [2, T] of the clipper for a mixture [2, T]."""
    curve: Samples = np.ones_like(mixture)
    peak = _peak(mixture)
    if peak < _SILENT:
        return curve
    drive = np.float32(10 ** (drive_db / 20) * _CEILING / peak)
    driven = mixture * drive
    cut = _CEILING * np.tanh(driven / np.float32(_CEILING)) if soft else np.clip(driven, -_CEILING, _CEILING)
    curve *= drive
    # Where the mixture is next to nothing the stems cancel, and neither shape changes it.
    np.divide(cut.astype(np.float32), mixture, out=curve, where=np.abs(driven) > np.float32(1e-4))
    return curve


def _check_compressor(low_ratio: float, high_ratio: float, low_db: float, high_db: float) -> None:
    check_range("low_ratio", low_ratio, "high_ratio", high_ratio, 1, 100)
    check_range("low_db", low_db, "high_db", high_db, -20, 60)


def _curve(
    audio: Samples, rng: Rng, sample_rate: int, ratios: tuple[float, float], depths: tuple[float, float]
) -> Samples | None:
    """Gain [T] of a compressor with random settings for [2, T] that leaves its mean power as it was; None: silence."""
    ratio = float(np.exp(rng.uniform(*np.log(ratios))))
    depth = float(rng.uniform(*depths))
    attack = float(np.exp(rng.uniform(np.log(0.001), np.log(0.03))))
    release = float(np.exp(rng.uniform(np.log(0.05), np.log(0.5))))
    levels = 20 * np.log10(np.maximum(_levels(audio), 1e-7))
    loud = float(np.percentile(levels, 95)) if len(levels) else -140.0
    if loud < 20 * np.log10(_SILENT):
        return None
    over = levels - (loud - depth)
    knee = np.clip(over + _KNEE_DB / 2, 0, _KNEE_DB)
    reduction = (1 / ratio - 1) * np.where(over > _KNEE_DB / 2, over, knee**2 / (2 * _KNEE_DB))
    followed = _follow(reduction.tolist(), _decay(attack, sample_rate), _decay(release, sample_rate))
    gains = 10 ** (np.asarray(followed) / 20)
    power = np.square(10 ** (levels / 20))
    makeup = np.sqrt(power.sum() / max(float((power * gains**2).sum()), 1e-30))
    return _at_samples(gains, audio.shape[-1], np.float32(makeup))


def _levels(audio: Samples) -> NDArray[np.float64]:
    """Peak of each block of [2, T], over both channels."""
    loud = np.abs(audio).max(axis=-2)
    whole = len(loud) - len(loud) % _BLOCK
    levels = loud[:whole].reshape(-1, _BLOCK).max(axis=1)
    rest = loud[whole:]
    return np.append(levels, rest.max() if len(rest) else np.zeros(0)).astype(np.float64)


def _peak(audio: Samples) -> float:
    return float(np.abs(audio).max()) if audio.size else 0.0


def _decay(seconds: float, sample_rate: int) -> float:
    """Share of a difference that is left after a block."""
    return float(np.exp(-_BLOCK / max(seconds * sample_rate, 1e-9)))


def _follow(targets: list[float], falling: float, rising: float) -> list[float]:
    """Move towards each target by a one-pole filter, with one speed down and another up."""
    values = []
    value = targets[0] if targets else 0.0
    for target in targets:
        share = falling if target < value else rising
        value = target + (value - target) * share
        values.append(value)
    return values


def _at_samples(gains: NDArray[np.float64], length: int, factor: np.float32) -> Samples:
    """Gains of blocks as gains of samples [T], in straight lines that are never above the block's own gain."""
    inner = np.minimum(gains[:-1], gains[1:])
    edges = np.concatenate([gains[:1], inner, gains[-1:]]).astype(np.float32) * factor
    ramp = np.arange(_BLOCK, dtype=np.float32) / _BLOCK
    lines = edges[:-1, None] + np.diff(edges)[:, None] * ramp
    return np.asarray(lines.reshape(-1)[:length], np.float32)
