"""The mixing desk: a channel per kind of stem, and their balance. Every stem goes in and comes out as [2, T]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unmixcli.training.synthesis.effects import (
    Curve,
    band_limit,
    bell,
    chorus,
    compress,
    curves,
    echo,
    excite,
    high_cut,
    high_pass,
    loudness_db,
    low_cut,
    random_equalizer,
    reverb,
    saturate,
    shape_spectrum,
    shelf,
)
from unmixcli.training.synthesis.guitar_amp import Amplifier
from unmixcli.training.synthesis.score import Score
from unmixcli.training.synthesis.sound import RATE, Random, Samples, gain, pan, stereo
from unmixcli.training.synthesis.voices import Line

STEMS = ("vocals", "drums", "bass", "other")
# Loudness of a stem relative to the mixture in dB (mean, spread).
_BALANCE = {"vocals": (-5.5, 2.5), "drums": (-6.0, 2.8), "bass": (-8.5, 2.8), "other": (-5.5, 3.0)}


def drum_bus(drums: Samples, rng: Random, *, room: float | None = None) -> Samples:
    """Drums: an equalizer, their room, and compression in parallel with attacks let through or flattened."""
    out = shape_spectrum(drums, curves(random_equalizer(rng, 2.0), low_cut(float(rng.uniform(20, 45)), 12.0)))
    amount = room if room is not None else float(rng.choice([0.0, 1.0, 1.0, 2.0]))
    if amount > 0.0:
        decay = float(rng.uniform(0.15, 0.5)) * amount + 0.1
        out = reverb(
            out, rng, decay=decay, level_db=float(rng.uniform(-18, -7)), pre_delay=float(rng.uniform(0.0, 0.015))
        )
    if rng.random() < 0.7:
        out = compress(
            out,
            above_mean_db=float(rng.uniform(-4, 6)),
            ratio=float(rng.uniform(2, 8)),
            attack=float(rng.uniform(0.002, 0.03)),
            release=float(rng.uniform(0.05, 0.25)),
            mix=float(rng.uniform(0.3, 1.0)),
        )
    if rng.random() < 0.5:
        out = saturate(out, float(rng.uniform(0, 12)), float(rng.uniform(0, 0.2)))
    return out


def bass_channel(bass: Samples, rng: Random) -> Samples:
    """A bass: overtones from an amplifier or tape, strong compression, in the centre."""
    weight = curves(bell(80.0, float(rng.uniform(0.0, 9.0)), 1.6), shelf(1200.0, float(rng.uniform(-12.0, 2.0))))
    out = shape_spectrum(bass, curves(low_cut(float(rng.uniform(25, 45)), 12.0), random_equalizer(rng, 2.0), weight))
    kind = rng.random()
    if kind < 0.3:
        driven = Amplifier.draw(rng, float(rng.uniform(0, 22))).play(out)
        clean = shape_spectrum(out, high_cut(float(rng.uniform(200, 800)), 12.0))
        out = clean + gain(float(rng.uniform(-12, 0))) * high_pass(driven, 150.0)
    elif kind < 0.75:
        out = saturate(out, float(rng.uniform(0, 14)), float(rng.uniform(0.0, 0.3)))
    out = compress(
        out, above_mean_db=float(rng.uniform(-10, 0)), ratio=float(rng.uniform(3, 10)), attack=0.004, release=0.12
    )
    out = saturate(out, float(rng.uniform(0.0, 6.0)))  # the first milliseconds of a note, which the compressor lets by
    if rng.random() < 0.3:
        out = shape_spectrum(out, high_cut(float(rng.uniform(800, 5000)), 12.0))
    width = 0.0 if rng.random() < 0.75 else float(rng.uniform(0.0, 0.7))
    middle = out.mean(axis=0, keepdims=True)
    side = (out - middle) * np.float32(width)
    out = middle + high_pass(side, 120.0)
    return chorus(out, rng, mix=float(rng.uniform(0.1, 0.5))) if rng.random() < 0.08 else out.astype(np.float32)


def instrument_channel(sound: Samples, rng: Random, *, position: float | None = None, room: float = 1.0) -> Samples:
    """Keys, strings, winds …: equalizer, sometimes chorus or echo, a room, a place."""
    air = shelf(5000.0, float(rng.uniform(0.0, 10.0)))
    out = shape_spectrum(sound, curves(low_cut(float(rng.uniform(30, 180)), 12.0), random_equalizer(rng, 2.5), air))
    if out.shape[0] == 1:
        out = pan(out, position if position is not None else float(np.clip(rng.normal(0.0, 0.45), -1, 1)))
    if rng.random() < 0.4:
        out = excite(out, float(rng.uniform(-30.0, -8.0)), float(rng.uniform(3500.0, 7000.0)))
    if rng.random() < 0.2:
        out = chorus(out, rng)
    if rng.random() < 0.4:
        out = compress(out, above_mean_db=0.0, ratio=float(rng.uniform(1.5, 4)))
    if room > 0 and rng.random() < 0.75:
        out = reverb(
            out, rng, decay=float(rng.uniform(0.3, 2.2)), level_db=float(rng.uniform(-22, -8)) + 3 * (room - 1)
        )
    return out


def vocal_bus(lines: Sequence[Line], score: Score, length: int, rng: Random) -> Samples:
    """Lead in the centre, doubles beside it, harmonies to the sides; one chain of effects over all of them."""
    out = np.zeros((2, length), np.float32)
    curve = _vocal_curve(rng)
    squeeze, dirt = float(rng.uniform(3, 10)), float(rng.choice([0.0, 0.0, 0.0, rng.uniform(3, 20)]))
    reference: float | None = None
    side = 1.0 if rng.random() < 0.5 else -1.0
    wet_already = all(line.wet for line in lines)
    for line in lines:
        voice = line.audio if line.wet else shape_spectrum(line.audio, curve)
        if not line.wet:
            voice = compress(
                voice, above_mean_db=-6.0, ratio=squeeze, attack=0.004, release=0.12, mix=float(rng.uniform(0.7, 1))
            )
            voice = saturate(voice, dirt) if dirt else voice
        level = loudness_db(voice)
        if level < -90.0:
            continue
        reference = level if reference is None else reference
        if line.job == "lead":
            out += stereo(voice)
            continue
        position = side * float(rng.uniform(0.3, 1.0) if line.job == "harmony" else rng.choice([0.0, 0.8, 1.0]))
        side = -side
        wanted = reference - float(rng.uniform(4, 12) if line.job == "harmony" else rng.uniform(3, 10))
        out += pan(voice.mean(axis=0, keepdims=True), position) * gain(wanted - level)
    if not wet_already:
        out = _vocal_room(out, score, rng)
    if rng.random() < 0.06:
        out = _radio_passage(out, rng)
    return out


def _vocal_curve(rng: Random) -> Curve:
    return curves(
        low_cut(float(rng.uniform(70, 140)), 18.0),
        bell(300.0, float(rng.uniform(-5, 1)), 1.5),
        bell(float(rng.uniform(2500, 5000)), float(rng.uniform(-3, 4)), 1.5),
        shelf(float(rng.uniform(6000, 11000)), float(rng.uniform(-5, 5))),
    )


def _vocal_room(voice: Samples, score: Score, rng: Random) -> Samples:
    out = voice
    if rng.random() < 0.55:
        interval = score.beat * float(rng.choice([0.5, 0.75, 1.0, 0.25]))
        interval = 0.11 if rng.random() < 0.25 else interval  # slapback
        out = echo(
            out,
            interval=interval,
            feedback=float(rng.uniform(0.1, 0.5)),
            level_db=float(rng.uniform(-24, -11)),
            cross=bool(rng.random() < 0.5),
            cutoff_hz=float(rng.uniform(2500, 8000)),
        )
    if rng.random() < 0.9:
        decay = float(rng.choice([rng.uniform(0.2, 0.7), rng.uniform(0.8, 3.0)]))
        pre_delay = float(rng.uniform(0.005, 0.08))
        out = reverb(out, rng, decay=decay, level_db=float(rng.uniform(-24, -9)), pre_delay=pre_delay)
    if rng.random() < 0.1:
        out = chorus(out, rng, mix=0.4)
    return out


def _radio_passage(voice: Samples, rng: Random) -> Samples:
    """Some seconds, or all of it, as through a telephone."""
    narrow = saturate(
        band_limit(voice, float(rng.uniform(250, 500)), float(rng.uniform(2500, 4500))), float(rng.uniform(0, 15))
    )
    length = voice.shape[1]
    if rng.random() < 0.4:
        return narrow
    begin = int(rng.uniform(0.0, 0.7) * length)
    end = min(length, begin + int(rng.uniform(4, 20) * RATE))
    out = voice.copy()
    out[:, begin:end] = narrow[:, begin:end]
    return out


def balance(stems: Mapping[str, Samples], rng: Random) -> dict[str, Samples]:
    """Stems at the levels of a mix, relative to each other."""
    out = {}
    for name in STEMS:
        if name not in stems:
            continue
        mean, spread = _BALANCE[name]
        level = loudness_db(stems[name])
        if level < -90.0:
            continue
        wanted = -18.0 + mean + float(np.clip(rng.normal(0.0, spread), -2.2 * spread, 2.2 * spread))
        out[name] = stems[name] * gain(wanted - level)
    return out
