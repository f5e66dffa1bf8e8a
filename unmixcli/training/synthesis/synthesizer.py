"""A small subtractive synthesizer: basses, leads, pads, plucks and organs of electronic music, and what stands in
where neither a recording nor a sound font plays a part. One cycle of a band-limited wave per pitch, then a filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unmixcli.training.synthesis.effects import curves, high_cut, low_cut, shape_spectrum
from unmixcli.training.synthesis.score import LENGTH, PITCH, START, VELOCITY, Notes
from unmixcli.training.synthesis.sound import RATE, Random, Samples, place, samples

_TABLE = 2048


@dataclass(frozen=True)
class Patch:
    """A sound.

    Attributes:
        tilt: amplitude of overtone n is n^-tilt (1 a saw, 2 soft, 4 nearly a sine).
        odd: how much of the even overtones is missing, 0 … 1 (1: a square).
        voices, detune_cents: copies beside the note.
        attack, decay, release: seconds; `sustain` the level that is held, 0 … 1.
        cutoff_hz, resonance: of the filter over everything.
        bend: semitones from which a note falls to its pitch in its first moments (kick-like basses).
        sub: level of a sine an octave below.
    """

    tilt: float
    odd: float
    voices: int
    detune_cents: float
    attack: float
    decay: float
    sustain: float
    release: float
    cutoff_hz: float
    bend: float = 0.0
    sub: float = 0.0

    @classmethod
    def draw(cls, role: str, rng: Random) -> Patch:
        """A patch for a role: "bass", "sub", "pad", "pluck", "lead", "organ"."""
        tilt, odd = float(rng.uniform(0.9, 2.2)), float(rng.choice([0.0, rng.random(), 1.0]))
        detune = float(rng.uniform(3, 18))
        if role == "sub":  # the 808
            return cls(float(rng.uniform(3, 6)), 0.0, 1, 0.0, 0.003, float(rng.uniform(0.5, 1.5)), 0.35, 0.08, 900.0,
                       bend=float(rng.choice([0.0, 7.0, 12.0])))  # fmt: skip
        if role == "bass":
            return cls(tilt, odd, int(rng.integers(1, 4)), detune / 2, 0.004, float(rng.uniform(0.15, 0.6)),
                       float(rng.uniform(0.3, 0.9)), 0.05, float(rng.uniform(400, 3000)),
                       sub=float(rng.uniform(0, 0.8)))  # fmt: skip
        if role == "pad":
            return cls(tilt, odd, int(rng.integers(2, 5)), detune, float(rng.uniform(0.05, 0.5)), 1.0, 0.8,
                       float(rng.uniform(0.2, 1.0)), float(rng.uniform(1000, 7000)))  # fmt: skip
        if role == "pluck":
            return cls(tilt, odd, int(rng.integers(1, 3)), detune, 0.002, float(rng.uniform(0.08, 0.5)), 0.05, 0.08,
                       float(rng.uniform(2000, 12000)))  # fmt: skip
        if role == "organ":
            return cls(tilt + 0.5, 0.3, 1, 0.0, 0.01, 0.3, 0.95, 0.05, float(rng.uniform(3000, 9000)))
        return cls(tilt, odd, int(rng.integers(1, 4)), detune, 0.008, 0.4, 0.7, 0.08, float(rng.uniform(2000, 11000)))

    def render(self, notes: Notes, length: int, rng: Random) -> Samples:
        """All notes as stereo [2, length]; the copies of a voice stand at different sides."""
        out = np.zeros((2, length), np.float32)
        for row in notes:
            at = samples(row[START])
            if at < length:
                place(
                    out,
                    self._note(row[PITCH], samples(max(row[LENGTH], 0.04)), rng) * np.float32(row[VELOCITY] ** 1.5),
                    at,
                )
        return shape_spectrum(out, curves(low_cut(25.0, 12.0), high_cut(self.cutoff_hz, 12.0)), 2048)

    def _note(self, pitch: float, held: int, rng: Random) -> Samples:
        count = held + samples(self.release)
        time = np.arange(count) / RATE
        base = 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)
        table = self._table(base)
        sides = np.zeros((2, count), np.float32)
        glide = np.cumsum(2.0 ** (self.bend / 12.0 * np.exp(-time / 0.025))) / RATE if self.bend else time
        for voice in range(self.voices):
            spread = (voice - (self.voices - 1) / 2.0) * self.detune_cents
            turns = glide * (base * 2.0 ** (spread / 1200.0)) + rng.random()
            wave = table[(turns * _TABLE).astype(np.int64) & (_TABLE - 1)]
            side = 0.5 if self.voices == 1 else voice / (self.voices - 1)
            sides[0] += wave * np.float32(0.35 + 0.3 * (1.0 - side))
            sides[1] += wave * np.float32(0.35 + 0.3 * side)
        if self.sub:
            sides += np.float32(self.sub) * np.sin(np.pi * base * glide).astype(np.float32)
        return sides * self._envelope(held, count) * np.float32(0.25 / np.sqrt(self.voices))

    def _envelope(self, held: int, count: int) -> Samples:
        time = np.arange(count) / RATE
        level = self.sustain + (1.0 - self.sustain) * np.exp(-time / self.decay)
        level *= np.minimum(time / self.attack, 1.0)
        level[held:] *= np.linspace(1.0, 0.0, count - held) ** 2
        return level.astype(np.float32)

    def _table(self, base_hz: float) -> Samples:
        """One cycle with the overtones that fit below 18 kHz."""
        count = max(1, min(int(18000.0 / base_hz), _TABLE // 4))
        order = np.arange(1, count + 1)
        level = order**-self.tilt * np.where(order % 2 == 0, 1.0 - self.odd, 1.0)
        spectrum = np.zeros(_TABLE // 2 + 1, np.complex128)
        spectrum[1 : count + 1] = -0.5j * level * _TABLE
        wave = np.fft.irfft(spectrum, _TABLE)
        return (wave / max(float(np.sqrt(np.mean(wave**2))), 1e-9)).astype(np.float32)
