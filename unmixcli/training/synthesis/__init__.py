"""Synthetic multitracks to train on: songs from MIDI files, recorded instruments, voices and a studio of effects.

`synthesize` renders a set; one track is made by `song.make_track`: a score (`score`, `midi`, `melody`) is played by a
band (`band`: `sampler`, `drums`, `guitar_amp`, `soundfont`, `synthesizer`), sung over (`voices`, `vocoder`), mixed
(`mixing`, `effects`) and mastered (`mastering`). `sources` says what there is to play and for which split.
"""

from unmixcli.training.synthesis.recipe import Summary, SynthesisOptions, synthesize

__all__ = ["Summary", "SynthesisOptions", "synthesize"]
