"""General MIDI instruments through the program fluidsynth and a free sound font."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unmixcli.errors import UnmixError
from unmixcli.training.synthesis.midi import write_midi
from unmixcli.training.synthesis.score import Part
from unmixcli.training.synthesis.sound import RATE, Samples, load

_LIMIT_SECONDS = 600  # for one rendering; a minute of music takes a second or two


def render(parts: Sequence[Part], font: Path, length: int) -> Samples:
    """Stereo [2, length], dry (rooms are the mix's business). Deterministic.

    Raises:
        UnmixError: fluidsynth failed.
    """
    if not any(len(part.notes) for part in parts):
        return np.zeros((2, length), np.float32)
    with tempfile.TemporaryDirectory(prefix="unmix-midi-") as folder:
        song, sound = Path(folder) / "song.mid", Path(folder) / "song.wav"
        write_midi(parts, song)
        command = ["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.5", "-r", str(RATE), "-O", "float"]
        command += ["-o", "synth.dynamic-sample-loading=1", "-F", str(sound), str(font), str(song)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnmixError(f"fluidsynth did not render: {error}") from error
        if done.returncode != 0 or not sound.is_file():
            raise UnmixError(f"fluidsynth failed ({done.returncode}): {done.stderr.strip()[-300:]}")
        audio, _ = load(sound)
    out = np.zeros((2, length), np.float32)
    count = min(length, audio.shape[1])
    out[:, :count] = audio[:2, :count]
    return out
