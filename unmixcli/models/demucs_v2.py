"""Demucs versions 1 and 2: convolutions, gated and with ReLU, around an LSTM.

"Music Source Separation in the Waveform Domain" (Défossez, Usunier, Bottou & Bach, 2019, arXiv:1911.13254). Checked
against the public package `demucs` 2.0.3. The convolutions of the way back are not padded, so that the output is
shorter than the input: that is what a segment's context is for. `demucs.py` has what all versions share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

from torch import nn

from unmixcli.models.demucs import DEFAULTS, TimeDemucs
from unmixcli.models.demucs_blocks import BLSTM


class DemucsV2(TimeDemucs):
    """Version 2: works at twice the sample rate."""

    architecture = "demucs_v2"
    scaled = True
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS | {
        "resample": True,
        "lstm_layers": 2,
        "context": 3,
        "segment": Fraction(40),
    }
    only: ClassVar[Mapping[str, Any]] = {"rewrite": True, "glu": True, "normalize": False}
    ignored = frozenset({"rescale", "segment_length"})

    @property
    def lost(self) -> int:
        return max(0, int(self.values["context"]) - 1)

    def layers(self, values: Mapping[str, Any], sources: int) -> nn.Module:
        return _Layers2(values, sources)


class DemucsV1(DemucsV2):
    """Version 1: at the sample rate itself. Its program cut a track into pieces of ten seconds side by side, each
    surrounded by silence."""

    architecture = "demucs_v1"
    scaled = False
    hears_context = False
    overlap = 0.0
    edge_padding = "none"
    defaults: ClassVar[Mapping[str, Any]] = {
        **DEFAULTS,
        "lstm_layers": 2,
        "context": 3,
        "segment": Fraction(10),
    }
    only: ClassVar[Mapping[str, Any]] = {**DemucsV2.only, "upsample": False, "resample": False}


class _Layers2(nn.Module):
    def __init__(self, values: Mapping[str, Any], sources: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        kernel, stride = values["kernel_size"], values["stride"]
        inputs, channels = values["audio_channels"], values["channels"]
        for level in range(values["depth"]):
            outputs = inputs if level else sources * values["audio_channels"]
            encode: Sequence[nn.Module] = (
                nn.Conv1d(inputs, channels, kernel, stride),
                nn.ReLU(),
                nn.Conv1d(channels, 2 * channels, 1),
                nn.GLU(1),
            )
            decode: Sequence[nn.Module] = (
                nn.Conv1d(channels, 2 * channels, values["context"]),
                nn.GLU(1),
                nn.ConvTranspose1d(channels, outputs, kernel, stride),
                *([nn.ReLU()] if level else []),
            )
            self.encoder.append(nn.Sequential(*encode))
            self.decoder.insert(0, nn.Sequential(*decode))
            inputs, channels = channels, int(values["growth"] * channels)
        if values["lstm_layers"]:
            self.lstm = BLSTM(inputs, values["lstm_layers"], pieces=False)
