"""Another key, another tempo: streaming pitch shifting and time stretching with bounded memory and exact length.

The engine is Signalsmith Stretch (MIT; through the package python-stretch), a spectral stretcher that keeps the phases
between the channels of a pair and, above 8 kHz, shifts by less (`_TONALITY_HZ`), so that cymbals stay cymbals. Its
delay is taken out: sample t of the input lies at t / tempo of the output, for the whole track.

The engine takes a whole array and no stream. So a long track is stretched in pieces of about a minute and a half that
share ten seconds, and joined there. Two runs of a phase vocoder over the same music agree in what is heard and differ
in their phases, so a cross-fade at any place would be a short smear. The place is chosen: `best_seam` tries about 1,800
and takes the one whose short-time spectra are nearest to those of one of the two runs. Over real songs the seam's
spectra then differ from the unjoined run's by about as much as two runs of the engine differ from each other anywhere,
which is below what the engine itself changes (`docs/howto/karaoke.md` has the figures).

Limits: between pairs of a surround track phases are not kept; the first and last milliseconds of a track that begins or
ends loud are softened by the engine's window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.channels import channel_groups
from unmixcli.errors import OptionError

Samples = NDArray[np.float32]

LOWEST_TEMPO, HIGHEST_TEMPO = 0.25, 4.0
WIDEST_KEY = 24.0  # semitones, up or down

# Frequencies up to here are shifted by the full interval, as the engine's author recommends.
_TONALITY_HZ = 8000.0
# Samples of a piece: 95 s at 44.1 kHz, about 170 MB at work. The engine counts positions in float32, whose integers are
# exact to 2^24.
_PIECE = 1 << 22
# What neighbouring pieces share.
_SHARED_SECONDS = 10.0
# At the start and end of a piece the engine has no context yet.
_MARGIN_SECONDS = 0.5
# Places and lengths of a cross-fade that are tried, and the window of the spectra they are judged by.
_STEP_SECONDS = 0.01
_FADES_SECONDS = (0.02, 0.08)
_WINDOW_SECONDS = 0.046
# In a spectrum, what lies 60 dB under its peak, or about 100 dB under full scale, counts as nothing.
_MASKED, _SILENT = 1e-6, 1e-6


def stretched_length(frames: int, tempo: float) -> int:
    """Samples that `frames` samples become: frames / tempo, rounded half up."""
    return math.floor(frames / tempo + 0.5)


class PitchTempo:
    """A stretcher for one track.

    Args:
        sample_rate: Hz.
        channels: C.
        semitones: change of key; fractions are fine, 0 keeps it.
        tempo: 2 plays twice as fast, 1 keeps it.
        channel_layout: a name in `channels.LAYOUTS`, where known: says which channels are pairs.
        piece: samples per run of the engine, for tests.

    Raises:
        OptionError: a value out of range, or the engine isn't installed.
    """

    def __init__(
        self,
        sample_rate: int,
        channels: int,
        *,
        semitones: float = 0.0,
        tempo: float = 1.0,
        channel_layout: str | None = None,
        piece: int = _PIECE,
    ) -> None:
        check_pitch_tempo(semitones, tempo)
        self.sample_rate = sample_rate
        self.channels = channels
        self.semitones = semitones
        self.tempo = tempo
        self._groups = channel_groups(channels, channel_layout, model_channels=2)
        self._engine = None if semitones == 0 and tempo == 1 else _engine_class()
        self._piece = piece
        self._shared = min(round(_SHARED_SECONDS * sample_rate), piece // 3)
        self._waiting: list[Samples] = []
        self._held = 0  # samples in `_waiting`
        self._start = 0  # of the next piece, in the input
        self._tail: Samples | None = None  # of the last piece, from the next one's start on

    def process(self, block: Samples) -> Samples:
        """Take [C, T], give what is ready, [C, T'] (often nothing)."""
        if self._engine is None:
            return block
        self._waiting.append(block)
        self._held += block.shape[1]
        ready = [self._next_piece() for _ in range(max(0, math.ceil((self._held - self._piece) / self._stride)))]
        return np.concatenate([np.zeros((self.channels, 0), np.float32), *ready], axis=1)

    def finish(self) -> Samples:
        """The rest. All that was given together is exactly `stretched_length` of all that was taken."""
        empty = np.zeros((self.channels, 0), np.float32)
        if self._engine is None or not self._held:
            return empty
        return self._join(self._stretch(np.concatenate(self._waiting, axis=1)))

    @property
    def _stride(self) -> int:
        return self._piece - self._shared

    def _next_piece(self) -> Samples:
        """Stretch the first piece of what waits, and give its output up to the start of the piece after it."""
        waiting = np.concatenate(self._waiting, axis=1)
        joined = self._join(self._stretch(waiting[:, : self._piece]))
        rest = waiting[:, self._stride :].copy()
        self._waiting, self._held = [rest], rest.shape[1]
        first = stretched_length(self._start, self.tempo)
        self._start += self._stride
        cut = stretched_length(self._start, self.tempo) - first
        self._tail = joined[:, cut:].copy()
        return joined[:, :cut]

    def _stretch(self, piece: Samples) -> Samples:
        """One run of the engine: the piece that starts at `_start`, on the output's sample grid."""
        start = stretched_length(self._start, self.tempo)
        length = stretched_length(self._start + piece.shape[1], self.tempo) - start
        stretched = np.zeros((self.channels, length), np.float32)
        for group in self._groups:
            part = self._run(np.ascontiguousarray(piece[list(group)]))
            used = min(length, part.shape[1])
            stretched[list(group), :used] = part[:, :used]
        return stretched

    def _run(self, samples: Samples) -> Samples:
        assert self._engine is not None
        engine = self._engine(0)  # the seed
        engine.preset(samples.shape[0], float(self.sample_rate))
        engine.setTransposeSemitones(self.semitones, min(0.5, _TONALITY_HZ / self.sample_rate))
        engine.setTimeFactor(self.tempo)
        output: Samples = np.asarray(engine.process(samples), dtype=np.float32)
        return output

    def _join(self, piece: Samples) -> Samples:
        """Continue the last piece's tail with this piece, both of which start at the same sample."""
        tail, self._tail = self._tail, None
        if tail is None:
            return piece
        length = min(tail.shape[1], piece.shape[1])
        at, fade = best_seam(tail[:, :length], piece[:, :length], self.sample_rate)
        joined: Samples = piece.copy()
        joined[:, :at] = tail[:, :at]
        joined[:, at : at + fade] = cross_fade(tail[:, at : at + fade], piece[:, at : at + fade])
        return joined


def cross_fade(first: Samples, second: Samples) -> Samples:
    """From one to the other, [C, T] each, over their whole length, at constant level whatever their phases."""
    rising = 0.5 - 0.5 * np.cos(np.pi * (np.arange(first.shape[1]) + 0.5) / max(1, first.shape[1]))
    scale = math.sqrt(float(np.vdot(first, first)) * float(np.vdot(second, second)))
    correlation = max(-0.9, float(np.vdot(first, second)) / scale) if scale > 0 else 1.0
    # Level of the sum of two signals of equal power with this correlation.
    level = np.sqrt(rising**2 + (1 - rising) ** 2 + 2 * correlation * rising * (1 - rising))
    mixed: Samples = (((1 - rising) / level) * first + (rising / level) * second).astype(np.float32)
    return mixed


def best_seam(first: Samples, second: Samples, sample_rate: int) -> tuple[int, int]:
    """Where to change from one rendering of the same music to another so that it is heard least.

    Args:
        first, second: [C, T].

    Returns:
        First sample and length of the cross-fade.
    """
    length = first.shape[1]
    size = 2 ** round(math.log2(_WINDOW_SECONDS * sample_rate))
    margin = max(round(_MARGIN_SECONDS * sample_rate), size)
    fades = [round(seconds * sample_rate) for seconds in _FADES_SECONDS]
    places = range(margin, length - margin - max(fades), max(1, round(_STEP_SECONDS * sample_rate)))
    if not places:  # too short to choose: only where pieces are, which no real track has
        return max(0, (length - fades[0]) // 2), min(fades[0], length)
    window = np.hanning(size)
    choices = [(at, fade) for fade in fades for at in places]
    return min(choices, key=lambda choice: _seam_cost(first, second, choice[0], choice[1], window))


def _seam_cost(first: Samples, second: Samples, at: int, fade: int, window: NDArray[np.float64]) -> float:
    """Mean difference in dB between the spectra around a seam and those of the nearer of the two renderings."""
    size = len(window)
    middle = at + fade // 2
    around = slice(middle - size, middle + size)
    joined = np.concatenate(
        [
            first[:, around.start : at],
            cross_fade(first[:, at : at + fade], second[:, at : at + fade]),
            second[:, at + fade : around.stop],
        ],
        axis=1,
    )
    frames = np.stack([joined, first[:, around], second[:, around]])
    worst = 0.0
    for start in (size // 4, size // 2, 3 * size // 4):
        power = np.abs(np.fft.rfft(frames[..., start : start + size] * window)) ** 2 + _SILENT
        floor = _MASKED * power.max(axis=-1, keepdims=True)
        levels = 10 * np.log10(power + floor)
        worst = max(worst, float(np.abs(levels[0] - levels[1:]).mean(axis=(1, 2)).min()))
    return worst


def pitch_tempo_blocks(blocks: Iterable[Samples], stretcher: PitchTempo) -> Iterator[Samples]:
    """A whole stream through a stretcher: [C, T] blocks in, [C, T'] blocks out."""
    for block in blocks:
        ready = stretcher.process(block)
        if ready.shape[1]:
            yield ready
    rest = stretcher.finish()
    if rest.shape[1]:
        yield rest


def check_pitch_tempo(semitones: float, tempo: float) -> None:
    """Raise OptionError where a key or tempo can't be made."""
    if not abs(semitones) <= WIDEST_KEY:
        raise OptionError(f"key is {semitones:g} semitones, expected {-WIDEST_KEY:g} to +{WIDEST_KEY:g}.")
    if not LOWEST_TEMPO <= tempo <= HIGHEST_TEMPO:
        raise OptionError(
            f"tempo is {tempo:g}, expected {LOWEST_TEMPO:g} to {HIGHEST_TEMPO:g} (1 is the original, 0.9 is slower)."
        )


def _engine_class() -> Any:
    try:
        from python_stretch.Signalsmith import Stretch
    except ImportError as error:
        raise OptionError(
            "changing key or tempo needs the package python-stretch, which is not installed.",
            hint="`pip install python-stretch` (where no wheel fits this system, it is built with a C++ compiler); "
            "or leave --key and --tempo out.",
        ) from error
    return Stretch
