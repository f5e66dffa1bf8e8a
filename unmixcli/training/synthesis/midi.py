"""Standard MIDI files in and out (mido, extra `synthesis`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmixcli.errors import InputError
from unmixcli.training.synthesis.needs import need
from unmixcli.training.synthesis.score import DRUMS, LENGTH, PITCH, START, VELOCITY, Part, Score, notes_from, role_of

DRUM_CHANNEL = 9
_TICKS = 480  # per quarter note, in the files written here


def read_midi(path: Path) -> Score:
    """A song: one part per channel and program.

    Raises:
        InputError: not a MIDI file, or one without a note.
        UnmixError: mido isn't installed.
    """
    mido = need("mido")
    try:
        song = mido.MidiFile(path, clip=True)
        rows, seconds, tempo = _collect(mido, song)
    except (OSError, EOFError, ValueError, LookupError, AttributeError, mido.KeySignatureError) as error:
        raise InputError(f"{path}: not a readable MIDI file: {error}") from error
    parts = []
    for (channel, program), notes in sorted(rows.items()):
        role = DRUMS if channel == DRUM_CHANNEL else role_of(program)
        parts.append(Part(role, program, notes_from(notes)))
    if not parts:
        raise InputError(f"{path}: a MIDI file without a note")
    return Score(path.stem, tuple(parts), seconds, tempo)


def _collect(mido: Any, song: Any) -> tuple[dict[tuple[int, int], list[list[float]]], float, float]:
    """Notes by (channel, program), the length in seconds, and the tempo that holds longest."""
    programs: dict[int, int] = defaultdict(int)
    held: dict[tuple[int, int], list[tuple[float, int, int]]] = defaultdict(list)
    rows: dict[tuple[int, int], list[list[float]]] = defaultdict(list)
    tempos: Counter[float] = Counter()
    now, tempo = 0.0, 120.0
    for message in song:
        now += message.time
        tempos[tempo] += max(message.time, 0.0)
        if message.type == "set_tempo":
            tempo = 60e6 / max(message.tempo, 1)
        elif message.type == "program_change":
            programs[message.channel] = message.program
        elif message.type == "note_on" and message.velocity > 0:
            held[message.channel, message.note].append((now, message.velocity, programs[message.channel]))
        elif message.type in ("note_on", "note_off") and held[message.channel, message.note]:
            start, velocity, program = held[message.channel, message.note].pop(0)
            rows[message.channel, program].append([start, max(now - start, 0.02), message.note, velocity / 127.0])
    return dict(rows), now, tempos.most_common(1)[0][0] if tempos else 120.0


def write_midi(parts: Sequence[Part], path: Path) -> None:
    """Parts as a MIDI file of one tempo, one channel each (drums on the tenth); more than 15 share the last."""
    mido = need("mido")
    song = mido.MidiFile(type=0, ticks_per_beat=_TICKS)
    events: list[tuple[int, int, Any]] = []
    channels = [channel for channel in range(16) if channel != DRUM_CHANNEL]
    free = iter(channels)
    for part in parts:
        channel = DRUM_CHANNEL if part.role == DRUMS else next(free, channels[-1])
        events.append((0, 0, mido.Message("program_change", channel=channel, program=part.program)))
        for row in part.notes:
            begin = round(row[START] * 2 * _TICKS)  # 120 quarter notes per minute: two per second
            end = max(begin + 1, round((row[START] + row[LENGTH]) * 2 * _TICKS))
            pitch = min(max(round(row[PITCH]), 0), 127)
            velocity = min(max(round(row[VELOCITY] * 127), 1), 127)
            events.append((begin, 2, mido.Message("note_on", channel=channel, note=pitch, velocity=velocity)))
            events.append((end, 1, mido.Message("note_off", channel=channel, note=pitch)))
    track = mido.MidiTrack()
    song.tracks.append(track)
    now = 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=tick - now))
        now = tick
    song.save(path)
