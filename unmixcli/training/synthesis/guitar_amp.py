"""Electric guitars and basses through an amplifier and a loudspeaker cabinet.

Chain: input filter, one or two valve stages (asymmetric tanh, oversampled twice), tone stack, cabinet (steep fall over
4-6 kHz, a resonance near 100 Hz, irregular presence region with a microphone's notch).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unmixcli.training.synthesis.effects import (
    bell,
    curves,
    high_cut,
    high_pass,
    low_cut,
    oversampled,
    shape_spectrum,
)
from unmixcli.training.synthesis.sound import Random, Samples, gain


@dataclass(frozen=True)
class Amplifier:
    """The knobs. Frequencies in Hz, levels in dB.

    Attributes:
        drive_db: gain before the valves over the point where they bend: 0 clean, 20 crunch, 40 metal.
        tight_hz: what is taken away below before the distortion.
        mid_hz, mid_db: the boost in front (an overdrive pedal).
        scoop_db: the middle of the tone stack.
        cabinet_hz: where the loudspeaker ends.
        presence_hz, presence_db: the peak before that.
        notch_hz: the microphone's place.
        bias: asymmetry of the valves.
    """

    drive_db: float
    tight_hz: float
    mid_hz: float
    mid_db: float
    scoop_db: float
    cabinet_hz: float
    presence_hz: float
    presence_db: float
    notch_hz: float
    bias: float

    @classmethod
    def draw(cls, rng: Random, drive_db: float) -> Amplifier:
        """Any amplifier with about this much drive."""
        return cls(
            drive_db=drive_db + float(rng.normal(0.0, 2.0)),
            tight_hz=float(rng.uniform(60, 110) + 1.5 * max(drive_db, 0.0)),
            mid_hz=float(rng.uniform(600, 1100)),
            mid_db=float(rng.uniform(0.0, 6.0)),
            scoop_db=float(rng.uniform(-7.0, 2.0)),
            cabinet_hz=float(rng.uniform(3800, 6000)),
            presence_hz=float(rng.uniform(2000, 3600)),
            presence_db=float(rng.uniform(1.0, 6.0)),
            notch_hz=float(rng.uniform(1000, 6000)),
            bias=float(rng.uniform(0.05, 0.35)),
        )

    def play(self, guitar: Samples) -> Samples:
        """[C, T] from the pickup to the microphone, at the level it came."""
        level = float(np.sqrt(np.mean(guitar * guitar)))
        if level < 1e-6:
            return guitar.copy()
        before = curves(low_cut(self.tight_hz, 12.0), bell(self.mid_hz, self.mid_db, 2.0), high_cut(7000.0, 12.0))
        driven = shape_spectrum(guitar, before, 4096)
        # the loudest moments sit `drive_db` over the knee
        reference = float(np.quantile(np.abs(driven[:, ::16]), 0.995))
        first, second = self._stage_gains(max(reference, 1e-6))
        out = oversampled(driven, lambda x: _stage(_stage(x * first, self.bias) * second, -0.5 * self.bias))
        after = curves(
            low_cut(75.0, 12.0),
            bell(110.0, 3.0, 0.7),
            bell(550.0, self.scoop_db, 1.6),
            bell(self.presence_hz, self.presence_db, 0.8),
            bell(self.notch_hz, -6.0, 0.25),
            high_cut(self.cabinet_hz, 24.0),
        )
        out = high_pass(shape_spectrum(out, after, 4096), 50.0)
        return (out * np.float32(level / max(float(np.sqrt(np.mean(out * out))), 1e-9))).astype(np.float32)

    def _stage_gains(self, reference: float) -> tuple[np.float32, np.float32]:
        """The gain before each valve: two thirds of the drive in the first, the rest in the second."""
        drive = max(self.drive_db, -6.0)
        return gain(drive * 0.67) / np.float32(reference), gain(max(drive, 0.0) * 0.33)


def _stage(signal: Samples, bias: float) -> Samples:
    bent: Samples = np.tanh(signal + np.float32(bias)) - np.float32(np.tanh(bias))
    return bent
