"""A light sampler: real notes recorded one by one, pitched by resampling to the nearest ones that are missing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unmixcli.training.synthesis.score import LENGTH, PITCH, START, VELOCITY, Notes
from unmixcli.training.synthesis.sound import RATE, Random, Samples, load_at_rate, place, resample, samples

# <anything>_<articulation>_m<MIDI note>_v<layer>[_r<round robin>]
_NAME = re.compile(r"_(?P<articulation>[a-z0-9]+)_m(?P<note>\d+)_v(?P<layer>\d+)(?:_r(?P<robin>\d+))?$")
_RELEASE = {"piano": 0.12, "guitar": 0.05, "organ": 0.04, "bass": 0.06}
_LOOPED = frozenset({"organ", "reed", "brass"})  # sounds that last as long as they are held


@dataclass(frozen=True)
class Instrument:
    """One articulation of a recorded instrument.

    Attributes:
        name: source and articulation.
        role: family it can play for: "bass", "guitar", "piano", "organ", "reed", "brass", "banjo", "pluck".
        zones: for each recorded note its layers, softest first; each layer its takes.
    """

    name: str
    role: str
    zones: dict[int, list[list[Path]]] = field(hash=False)

    def render(self, notes: Notes, length: int, rng: Random, *, detune_cents: float = 0.0) -> Samples:
        """All notes as [1, length]."""
        out = np.zeros((1, length), np.float32)
        pitched: dict[tuple[Path, int], Samples] = {}
        for row in notes:
            at = samples(row[START])
            if at < length:
                sound = self._note(row[PITCH], row[VELOCITY], rng, pitched, detune_cents)
                place(out, self._shaped(sound, samples(max(row[LENGTH], 0.03))), at)
        return out

    def _note(
        self, pitch: float, velocity: float, rng: Random, pitched: dict[tuple[Path, int], Samples], cents: float
    ) -> Samples:
        wanted = _within(round(pitch), min(self.zones) - 7, max(self.zones) + 7)
        nearest = min(self.zones, key=lambda note: abs(note - wanted))
        layers = self.zones[nearest]
        layer = layers[min(int(velocity * len(layers)), len(layers) - 1)]
        take = layer[int(rng.integers(len(layer)))]
        key = (take, wanted - nearest)
        if key not in pitched:
            ratio = 2.0 ** ((wanted - nearest + cents / 100.0) / 12.0)
            pitched[key] = resample(_normalized(load_at_rate(take)), RATE * ratio, RATE)
        # recorded layers keep their timbre; the level follows the velocity, about 30 dB from softest to loudest
        return (pitched[key] * np.float32(0.05 + velocity**1.6)).astype(np.float32)

    def _shaped(self, sound: Samples, held: int) -> Samples:
        release = samples(_RELEASE.get(self.role, 0.08))
        if self.role in _LOOPED and held + release > sound.shape[1]:
            sound = _sustained(sound, held + release)
        if held + release >= sound.shape[1]:
            end = min(samples(0.03), sound.shape[1])
            out = sound.copy()
        else:
            end = release
            out = sound[:, : held + release].copy()
        if end:
            out[:, -end:] *= np.linspace(1.0, 0.0, end, dtype=np.float32) ** 2
        return out


def find_articulations(files: Iterable[Path], name: str, role: str) -> list[Instrument]:
    """Instruments, one per articulation, from files named `…_<articulation>_m<note>_v<layer>_r<take>`."""
    found: dict[str, dict[int, dict[int, list[Path]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for file in sorted(files):
        match = _NAME.search(file.stem)
        if match:
            found[match["articulation"]][int(match["note"])][int(match["layer"])].append(file)
    instruments = []
    for articulation, notes in sorted(found.items()):
        zones = {note: [layers[layer] for layer in sorted(layers)] for note, layers in sorted(notes.items())}
        if len(zones) >= 5:
            instruments.append(Instrument(f"{name}/{articulation}", role, zones))
    return instruments


def _within(pitch: int, low: int, high: int) -> int:
    """The pitch moved by octaves into the range, as a player would do."""
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return max(pitch, low)


def _normalized(sound: Samples) -> Samples:
    """Mono, from its attack on, at a common level: the first 0.4 s at −16 dBFS."""
    mono = sound.mean(axis=0, keepdims=True)
    level = np.abs(mono[0])
    peak = float(level.max(initial=0.0))
    if peak == 0.0:
        return mono
    attack = max(int(np.argmax(level > 0.06 * peak)) - 64, 0)
    body = mono[:, attack : attack + samples(0.4)]
    rms = float(np.sqrt(np.mean(body * body)))
    return (mono[:, attack:] * np.float32(0.16 / max(rms, 1e-5))).astype(np.float32)


def _sustained(sound: Samples, length: int) -> Samples:
    """A held sound made longer by going over its middle again, with cross-fades."""
    total = sound.shape[1]
    begin, end = int(0.35 * total), int(0.85 * total)
    overlap = (end - begin) // 4
    if overlap < 64:
        return sound
    ramp = np.linspace(0.0, 1.0, overlap, dtype=np.float32)
    pieces = [sound[:, : end - overlap]]
    body = sound[:, begin:end]
    joint = sound[:, end - overlap : end] * np.sqrt(1.0 - ramp) + body[:, :overlap] * np.sqrt(ramp)
    have = pieces[0].shape[1]
    while have < length:
        pieces += [joint, body[:, overlap : body.shape[1] - overlap]]
        have += body.shape[1] - overlap
    return np.concatenate(pieces, axis=1)[:, :length].astype(np.float32)
