"""TCN masks: dilated convolutions over the frames of a spectrogram, one soft mask per stem, channel and bin.

A small network to learn training with, and a base line for larger ones: it learns within minutes on a CPU. The frames
are read as in "Open-Unmix" (Stöter et al., JOSS 2019: all bins of both channels into one layer, and back), what joins
them in time are the residual blocks of dilated convolutions of "Conv-TasNet" (Luo & Mesgarani, 2019, arXiv 1809.07454),
here full ones instead of separable. The masks of the stems add to one, so the stems add up to the mixture.

Legend: b batch, s stem, c channel, f bin, n frame, h hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.spectrum import istft, stft

_DEFAULTS: dict[str, int] = {
    "n_fft": 4096,
    "hop": 1024,
    "max_bin": 1487,  # what is read of a spectrum: up to 16 kHz
    "hidden": 256,
    "blocks": 5,
    "channels": 2,
    "sample_rate": 44100,
}
# Added to magnitudes under the logarithm: about the level of 16-bit noise in a bin.
_FLOOR = 1e-2


class _Block(nn.Module):
    """What surrounds a frame, at a distance, added to it. [b, h, n] -> [b, h, n]."""

    def __init__(self, hidden: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm1d(hidden),
            nn.PReLU(hidden),
            nn.Conv1d(hidden, hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = x + self.layers(x)
        return joined


class TCNMasks(SeparationModel):
    """See the module. Config: `_DEFAULTS`, and `targets`, all stems that the masks are shared out to (default: those
    asked for). Block k looks 2^k frames to each side."""

    trainable = True

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        values = _read(config)
        targets = tuple(config.get("targets", stems))
        if not stems or not set(stems) <= set(targets):
            raise CheckpointError(f"tcn_masks gives {', '.join(targets)}; asked for were {', '.join(stems)!r}.")
        self._outputs = [targets.index(stem) for stem in stems]
        self._count = len(targets)
        self.covers_mixture = len(stems) == len(targets)
        self.n_fft, self.hop, self.max_bin = values["n_fft"], values["hop"], values["max_bin"]
        self.stems, self.channels, self.sample_rate = tuple(stems), values["channels"], values["sample_rate"]
        hidden, blocks, bins = values["hidden"], values["blocks"], self.n_fft // 2 + 1
        # Within the edge lie all frames that a frame depends on, and the grid of frames is the track's.
        self.edge = (2**blocks - 1) * self.hop + -(-self.n_fft // self.hop) * self.hop
        self.segment_multiple = self.hop
        self.segment_length = 2 * self.edge + round(8 * self.sample_rate / self.hop) * self.hop
        self.overlap = 0.0
        self.norm = nn.BatchNorm1d(self.channels * self.max_bin)
        self.enter = nn.Conv1d(self.channels * self.max_bin, hidden, 1)
        self.blocks = nn.Sequential(*(_Block(hidden, 2**k) for k in range(blocks)))
        self.leave = nn.Conv1d(hidden, len(targets) * self.channels * bins, 1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> TCNMasks:
        """See `SeparationModel`."""
        return cls(config, stems)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        return self.training_outputs(mixture, {"waveforms"})["waveforms"]

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Masked spectra; waveforms if they are wanted."""
        x = self.training_spectra(mixture)
        loud = (x[:, :, : self.max_bin].abs() + _FLOOR).log().flatten(1, 2)  # [b, (c f), n]
        hidden = self.blocks(self.enter(self.norm(loud)))
        logits = self.leave(hidden).unflatten(1, (self._count, self.channels, -1))
        masks = logits.float().softmax(1)[:, self._outputs]
        spectra = masks * x[:, None]
        if "waveforms" not in wanted:
            return {"spectra": spectra}
        return {"spectra": spectra, "waveforms": istft(spectra, self.n_fft, self.hop, mixture.shape[-1])}

    def training_spectra(self, waves: Tensor) -> Tensor:
        """[..., T] -> complex [..., F, N]."""
        return stft(waves, self.n_fft, self.hop)


def _read(config: Mapping[str, Any]) -> dict[str, int]:
    """The config with defaults filled in.

    Raises:
        CheckpointError: a key or a value that the architecture does not have.
    """
    if unknown := set(config) - set(_DEFAULTS) - {"targets"}:
        raise CheckpointError(f"tcn_masks has no {', '.join(sorted(unknown))} in its config.")
    values = {**_DEFAULTS, **{name: value for name, value in config.items() if name != "targets"}}
    for name, value in values.items():
        if type(value) is not int or not 1 <= value <= 1 << 20:
            raise CheckpointError(f"tcn_masks's {name} is {value!r}, expected a whole number of at least 1.")
    bins = values["n_fft"] // 2 + 1
    for rule, message in (
        (values["n_fft"] % 2 == 0, f"n_fft is {values['n_fft']}, expected an even number"),
        (values["hop"] <= values["n_fft"] // 2, f"hop is {values['hop']}, expected at most half of n_fft"),
        (values["max_bin"] <= bins, f"max_bin is {values['max_bin']}, expected at most {bins}"),
        (values["blocks"] <= 12, f"blocks is {values['blocks']}, expected at most 12"),
        (values["channels"] <= 2, f"channels is {values['channels']}, expected 1 or 2"),
    ):
        if not rule:
            raise CheckpointError(f"tcn_masks's {message}.")
    return values
