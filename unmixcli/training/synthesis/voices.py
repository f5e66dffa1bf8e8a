"""Lead and backing vocals: sung from speech and syllables, spoken in rhythm, shouted, or taken from songs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from unmixcli.training.synthesis.effects import fade
from unmixcli.training.synthesis.melody import (
    FRAME,
    Expression,
    Range,
    harmony,
    pitch_curve,
    write_melody,
)
from unmixcli.training.synthesis.score import LENGTH, START, VELOCITY, Notes, Score
from unmixcli.training.synthesis.sound import RATE, Random, Samples, load_at_rate, place, resample, samples
from unmixcli.training.synthesis.sources import Voice
from unmixcli.training.synthesis.vocoder import Analysis, Syllable, Timbre, analyse, stretched, syllables, synthesize


@dataclass(frozen=True)
class Line:
    """One recorded voice, mono and dry.

    Attributes:
        audio: [1, T].
        job: "lead", "double" or "harmony".
        wet: whether it has its room already (vocals of a finished song); audio may be [2, T] then.
    """

    audio: Samples
    job: str
    wet: bool = False


@dataclass(frozen=True)
class _Singer:
    """A voice made ready to sing."""

    analyses: list[Analysis]
    pool: list[tuple[int, Syllable]]  # which analysis, which syllable, in the order they were spoken
    timbre: Timbre
    expression: Expression
    range: Range


def sung(
    voice: Voice, score: Score, length: int, rng: Random, *, activity: float, doubles: int, harmonies: int
) -> list[Line]:
    """A melody of its own over the score, on what the voice says; doubles and harmonies too."""
    low_voice = bool(rng.random() < 0.5)
    lowest = int(rng.integers(45, 52)) if low_voice else int(rng.integers(55, 62))
    singer = _prepare(voice, rng, Range(lowest, lowest + int(rng.integers(12, 19))), low_voice)
    if not singer.pool:
        return []
    phrases = write_melody(score, rng, singer.range, activity=activity)
    words = [_words(len(phrase), len(singer.pool), rng) for phrase in phrases]
    lines = [Line(_sing(phrases, words, singer, length, rng), "lead")]
    for number in range(doubles + harmonies):
        takes = [np.array(phrase) for phrase in phrases]
        who = replace(
            singer,
            timbre=replace(singer.timbre, formants=singer.timbre.formants * float(2 ** rng.normal(0, 0.03))),
            expression=replace(singer.expression, drift_cents=singer.expression.drift_cents + 5.0),
        )
        chosen = words
        if number >= doubles:
            above = bool(rng.random() < 0.7)
            takes = [harmony(phrase, score, rng, above=above) for phrase in phrases]
            some = rng.random(len(takes)) < 0.6
            takes, chosen = (
                [t for t, s in zip(takes, some, strict=True) if s],
                [w for w, s in zip(words, some, strict=True) if s],
            )
        for take in takes:
            take[:, START] += float(rng.normal(0.0, 0.012))
        lines.append(Line(_sing(takes, chosen, who, length, rng), "harmony" if number >= doubles else "double"))
    return lines


def _prepare(voice: Voice, rng: Random, reach: Range, low_voice: bool) -> _Singer:
    count = 24 if voice.kind == "syllables" else 6
    files = list(voice.files)
    chosen = [files[i] for i in rng.permutation(len(files))[:count]]
    analyses = [analyse(path) for path in chosen]
    pool = [(number, syllable) for number, one in enumerate(analyses) for syllable in syllables(one)]
    return _Singer(analyses, pool, Timbre.draw(rng, low_voice), Expression.draw(rng), reach)


def _words(count: int, available: int, rng: Random) -> list[int]:
    """Which syllables a phrase takes: a stretch of what was spoken, in order."""
    start = int(rng.integers(available))
    return [(start + number) % available for number in range(count)]


def _sing(phrases: Sequence[Notes], words: Sequence[list[int]], singer: _Singer, length: int, rng: Random) -> Samples:
    out = np.zeros((1, length), np.float32)
    for phrase, chosen in zip(phrases, words, strict=True):
        if len(phrase) == 0:
            continue
        place(out, _sing_phrase(phrase, chosen, singer, rng), samples(phrase[0, START]))
    return out


def _sing_phrase(phrase: Notes, chosen: list[int], singer: _Singer, rng: Random) -> Samples:
    """One phrase; runs of syllables from the same recording share one synthesis."""
    begin = phrase[0, START]
    count = int((phrase[-1, START] + phrase[-1, LENGTH] - begin) / FRAME) + 8
    curve = 440.0 * 2.0 ** ((pitch_curve(phrase, singer.expression, rng, count) - 69.0) / 12.0)
    out = np.zeros((1, int(count * FRAME * RATE) + RATE), np.float32)
    at = 0
    while at < len(phrase):
        recording = singer.pool[chosen[at]][0]
        run = [at]
        while run[-1] + 1 < len(phrase) and singer.pool[chosen[run[-1] + 1]][0] == recording:
            run.append(run[-1] + 1)
        first = int((phrase[run[0], START] - begin) / FRAME)
        positions, level = _positions([phrase[i] for i in run], [singer.pool[chosen[i]][1] for i in run], rng)
        analysis = singer.analyses[recording]
        pitch = curve[np.minimum(first + np.arange(len(positions)), count - 1)]
        voiced = analysis.pitch[np.clip(positions.astype(int), 0, analysis.frames - 1)] > 0
        sound = synthesize(analysis, positions, np.where(voiced, pitch, 0.0), singer.timbre, level)
        place(out, fade(sound, 200, 1200), int(first * FRAME * RATE))
        at = run[-1] + 1
    return out


def _positions(
    rows: list[NDArray[np.float64]], spoken: list[Syllable], rng: Random
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frames of the recording, and levels, for notes in a row; rests between notes become silence."""
    begin = rows[0][START]
    total = int((rows[-1][START] + rows[-1][LENGTH] - begin) / FRAME) + 5
    positions, level = np.zeros(total), np.zeros(total)
    for number, (row, syllable) in enumerate(zip(rows, spoken, strict=True)):
        first = int((row[START] - begin) / FRAME)
        last = int((row[START] + row[LENGTH] - begin) / FRAME) + 3
        if number + 1 < len(rows):  # sing on into the next note where there is hardly a rest
            following = int((rows[number + 1][START] - begin) / FRAME)
            last = following if following - last < 0.07 / FRAME else last
        last = min(max(last, first + 4), total)
        positions[first:last] = stretched(syllable, last - first, rng)
        positions[last:] = syllable.end
        level[first:last] = 0.4 + 0.6 * row[VELOCITY]
    return positions, gaussian_filter1d(level, 1.0)


def spoken(voice: Voice, score: Score, length: int, rng: Random, *, activity: float, doubles: int) -> list[Line]:
    """Rap: speech on the beat, a little faster, its melody exaggerated or flattened; doubled on some lines."""
    low_voice = bool(rng.random() < 0.6)
    timbre = Timbre.draw(rng, low_voice)
    span, shift = float(rng.uniform(0.3, 1.5)), float(2.0 ** rng.normal(0.05, 0.2))
    lines = [np.zeros((1, length), np.float32) for _ in range(1 + doubles)]
    files = list(voice.files)
    now = score.first_beat
    while now < score.seconds - 1.0:
        if rng.random() > activity + 0.15:
            now += 2 * score.beat
            continue
        analysis = analyse(files[int(rng.integers(len(files)))])
        cut = syllables(analysis)
        if not cut:
            now += score.beat
            continue
        pace = float(rng.uniform(0.95, 1.45))
        positions = np.arange(cut[0].begin, cut[-1].end, pace)
        source = analysis.pitch[positions.astype(int)]
        middle = float(np.exp(np.log(source[source > 0]).mean())) if (source > 0).any() else 120.0
        for number, line in enumerate(lines):
            if number and rng.random() < 0.5:
                continue
            wander = 2.0 ** (rng.normal(0.0, 0.3 if number else 0.0) / 12.0)
            pitch = np.where(source > 0, middle * shift * wander * (np.maximum(source, 1.0) / middle) ** span, 0.0)
            sound = synthesize(analysis, positions, pitch, timbre, np.full(len(positions), 0.9))
            place(line, fade(sound, 200, 800), samples(now + (float(rng.normal(0, 0.015)) if number else 0.0)))
        spoken_for = len(positions) * FRAME
        now += np.ceil((spoken_for + 0.1) / score.beat) * score.beat
    return [Line(line, "double" if number else "lead") for number, line in enumerate(lines)]


def shouted(voice: Voice, score: Score, length: int, rng: Random, *, activity: float) -> list[Line]:
    """Shouts on beats, played a little lower or higher than recorded; a second one on top now and then."""
    speed = float(2.0 ** (rng.uniform(-4.0, 4.0) / 12.0))
    out = np.zeros((1, length), np.float32)
    backing = np.zeros((1, length), np.float32)
    now = score.first_beat
    while now < score.seconds - 0.5:
        if rng.random() < activity + 0.1:
            sound = _shout(voice, rng, speed)
            place(out, sound, samples(now))
            if rng.random() < 0.3:
                place(backing, _shout(voice, rng, speed * 0.94), samples(now + 0.02))
            now += np.ceil(sound.shape[1] / RATE / score.beat) * score.beat
        else:
            now += 2 * score.beat
    return [Line(out, "lead"), Line(backing, "double")]


def _shout(voice: Voice, rng: Random, speed: float) -> Samples:
    sound = load_at_rate(voice.files[int(rng.integers(len(voice.files)))])[:1]
    peak = float(np.abs(sound).max(initial=1e-5))
    return resample(fade(sound * np.float32(0.5 / peak), 32, 400), RATE * speed, RATE)


def from_song(voice: Voice, length: int, rng: Random) -> list[Line]:
    """Vocals of a finished song from a random place on, up to three semitones slower or faster."""
    whole = load_at_rate(voice.files[0])
    speed = float(2.0 ** (rng.uniform(-3.0, 3.0) / 12.0))
    needed = int(length * speed) + 1
    frame = RATE // 2
    level = np.abs(whole).max(axis=0)
    busy = np.pad(level, (0, -len(level) % frame)).reshape(-1, frame).max(axis=1) > 0.02
    starts = np.flatnonzero(busy)
    if len(starts) == 0:
        return []
    begin = int(starts[int(rng.integers(max(1, int(0.8 * len(starts)))))]) * frame
    begin = max(0, min(begin, whole.shape[1] - needed))
    piece = resample(whole[:, begin : begin + needed], RATE * speed, RATE)[:, :length]
    piece = fade(piece, 512, 2048)
    if piece.shape[1] < length:
        repeats = -(-length // max(piece.shape[1], 1))
        piece = np.tile(piece, (1, repeats))[:, :length]
    finished = voice.files[0].stem == "vocals"
    return [Line(piece, "lead", wet=finished)]
