"""The signal path of MDX-Net around any network that maps spectra to spectra, and what is subtracted.

Tracks are cut as published: chunks of hop · (dim_t - 1) samples, half a window at each side dropped, silence beyond
the ends and after the last chunk. `compensate` scales the stem only where the other one is computed by subtraction:
the estimates are y and x - compensate · y. `denoise` averages over the sign of the input, (f(x) - f(-x)) / 2.

Legend: b batch, n frame, f bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.settings import read_settings, require
from unmixcli.models.tfc_tdf import MAX_LENGTH, analyse, frames_for, synthesise, text_setting

_SILENT_BINS = 3  # the lowest, zero in the input as published
_SIGNAL: dict[str, Any] = {
    "n_fft": 0,  # must be given: no file says it
    "hop_length": 1024,
    "dim_f": 3072,
    "dim_t": 256,
    "compensate": 1.0,
    "denoise": False,
    "overlap": 0.25,
    "sample_rate": 44100,
}
_UVR_NAMES = {"mdx_dim_f_set": "dim_f", "mdx_n_fft_scale_set": "n_fft"}
_IGNORED = ("is_karaoke", "dim_c", "num_overlap")


def rename(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the names of UVR's `model_data.json` as ours (there, dim_t is a power of two's exponent)."""
    values = {_UVR_NAMES.get(name, name): value for name, value in config.items()}
    exponent = values.pop("mdx_dim_t_set", None)
    if type(exponent) is int and 0 < exponent < 20:
        values.setdefault("dim_t", 2**exponent)
    return values


def read_signal(architecture: str, config: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of transform and protocol, and of `network`, checked and with their defaults.

    Raises:
        CheckpointError: an unknown key, a value that can't be used, or no n_fft.
    """
    plain = {name: value for name, value in rename(config).items() if name not in ("primary_stem", *_IGNORED)}
    values = read_settings(architecture, plain, {**_SIGNAL, **network}, only={}, ignored=())
    n_fft, hop, bins = values["n_fft"], values["hop_length"], values["dim_f"]
    if not n_fft:
        raise CheckpointError(
            f"{architecture}'s config has no n_fft, the samples of a window.",
            hint="an ONNX file doesn't say it; UVR's model_data.json does (mdx_n_fft_scale_set).",
        )
    chunk = hop * (values["dim_t"] - 1)
    require(
        architecture,
        (
            (16 <= n_fft <= 2**20 and n_fft % 2 == 0, f"n_fft is {n_fft}, expected an even number, 16 to 1048576"),
            (1 <= hop <= n_fft // 2, f"hop_length is {hop}, expected 1..{n_fft // 2}"),
            (_SILENT_BINS < bins <= n_fft // 2 + 1, f"dim_f is {bins}, expected 4..{n_fft // 2 + 1}"),
            (n_fft < chunk <= MAX_LENGTH, f"chunk is {chunk} samples (dim_t {values['dim_t']}), expected over {n_fft}"),
            (values["overlap"] < 1, f"overlap is {values['overlap']}, expected less than 1"),
            (0.1 <= values["compensate"] <= 10, f"compensate is {values['compensate']}, expected 0.1..10"),
            (values["sample_rate"] >= 1000, f"sample_rate is {values['sample_rate']}, expected at least 1000"),
        ),
    )
    return values


class SpectrogramModel(SeparationModel):
    """Transform, protocol and the second stem, around a network that maps spectra to spectra.

    Args:
        architecture: name for messages.
        config: see `_SIGNAL`; `primary_stem` names what the network gives.
        stems: to compute: the primary one, the one other that is computed by subtraction, or both.
        network: further settings with their defaults.
        frame_multiple: the network takes multiples of so many frames.
    """

    edge_padding = "zero"
    covers_mixture = True
    window: Tensor

    def __init__(
        self,
        architecture: str,
        config: Mapping[str, Any],
        stems: Sequence[str],
        network: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.values = read_signal(architecture, config, network)
        self.primary = text_setting(architecture, config, "primary_stem")
        if not 0 < len(set(stems)) == len(stems) <= 2 or (len(stems) == 2 and self.primary not in stems):
            raise CheckpointError(
                f"{architecture} gives {self.primary} and one other stem, asked for were {', '.join(stems) or 'none'}."
            )
        self.stems = tuple(stems)
        self.sample_rate = self.values["sample_rate"]
        self.hop = self.values["hop_length"]
        self.bins = self.values["dim_f"]
        self.overlap = float(self.values["overlap"])
        self.edge = self.values["n_fft"] // 2
        self.segment_length = self.hop * (self.values["dim_t"] - 1)
        self.frame_multiple = 1
        self.register_buffer("window", torch.hann_window(self.values["n_fft"]), persistent=False)

    def context(self, used: int) -> tuple[int, int]:
        """As published, silence fills the last segment up."""
        return self.edge, max(self.edge, self.segment_length - self.edge - used)

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, 2, T] -> estimates [B, S, 2, T]."""
        length = mixture.shape[-1]
        frames = frames_for(length, n_fft=self.window.shape[0], hop=self.hop, multiple=self.frame_multiple)
        x = analyse(mixture, self.window, hop=self.hop, bins=self.bins, frames=frames)
        x[:, :, :_SILENT_BINS] = 0
        y = self.network(x)
        if self.values["denoise"]:
            y = (y - self.network(x.neg())).mul_(0.5)
        stem = synthesise(y[:, None], self.window, hop=self.hop, length=length)
        estimates = [
            stem if name == self.primary else mixture[:, None] - self.values["compensate"] * stem for name in self.stems
        ]
        return torch.cat(estimates, 1)

    def network(self, x: Tensor) -> Tensor:
        """[b, n, f, 4] -> the same shape; x is not edited."""
        raise TypeError(f"{type(self).__name__} has no network")
