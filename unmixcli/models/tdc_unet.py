"""TDC U-Net: a U-Net along frequency whose frames are independent, complex spectrogram in, complex spectrogram out.

"Investigating U-Nets with various Intermediate Blocks for Spectrogram-based Singing Voice Separation" (Choi et al.,
ISMIR 2020, arXiv:1912.02591), the variant with 17 TDC (time-distributed convolution) blocks that estimates complex
numbers as channels. Checked against ws-choi/ISMIR2020_U_Nets_SVS: the published weights `cac_tdc_17_vocals_top1..3.pt`
load unchanged. Left out: the other block types of that repository.

Tracks are cut as in the published evaluation (its `preprocess_track`): chunks of 66 560 samples (64 frames without
padding), 5000 samples dropped at each side, 56 560 samples from one chunk to the next, zeros beyond the ends.

Inside, a frame is an image one bin high, [n, c, 1, f], channels last in memory, and sixteen frames go through the
network at a time so that a level stays in the processor's cache: twice as fast as a chunk at a time with
`Conv1d`, the same to rounding.

Legend: b chunk, n frame, c channel of the network, f bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.spectrogram import OverlapAdd, frame_count, spectra

_BATCH_NORM_EPSILON = 1e-5
_FRAMES = 16  # that go through the network together; with 4 or 64 it takes 1.6 times as long
_DEFAULTS: dict[str, int] = {
    "n_fft": 2048,
    "hop": 1024,
    "dim_t": 64,
    "internal_channels": 24,
    "num_blocks": 17,
    "layers_per_block": 5,
    "kernel_f": 3,
    "trim": 5000,
    "channels": 2,
    "sample_rate": 44100,
}


def _read(config: Mapping[str, Any]) -> dict[str, int]:
    """The config with defaults filled in.

    Raises:
        CheckpointError: a key or a value that the architecture does not have.
    """
    if unknown := set(config) - set(_DEFAULTS):
        raise CheckpointError(f"tdc_unet has no {', '.join(sorted(unknown))} in its config.")
    values = {**_DEFAULTS, **config}
    for name, value in values.items():
        if type(value) is not int or value < (name != "trim"):
            raise CheckpointError(f"tdc_unet's {name} is {value!r}, expected a whole number of at least 1 (trim: 0).")
    levels = values["num_blocks"] // 2
    chunk = values["hop"] * (values["dim_t"] - 1) + values["n_fft"]
    for rule, message in (
        (values["num_blocks"] % 2 == 1, f"num_blocks is {values['num_blocks']}, expected an odd number"),
        (values["kernel_f"] % 2 == 1, f"kernel_f is {values['kernel_f']}, expected an odd number"),
        (values["n_fft"] % values["hop"] == 0, f"hop is {values['hop']}, expected a divisor of {values['n_fft']}"),
        (values["n_fft"] % 2 ** (levels + 1) == 0, f"n_fft is {values['n_fft']}, too small for {levels} halvings"),
        (2 * values["trim"] < chunk, f"trim is {values['trim']}, expected less than half of {chunk} samples"),
        (values["channels"] <= 2, f"channels is {values['channels']}, expected 1 or 2"),
    ):
        if not rule:
            raise CheckpointError(f"tdc_unet's {message}.")
    return values


class _DenseBlock(nn.Module):
    """Convolutions along frequency, each seeing all outputs before it (newest first).

    [n, c, 1, f] -> [n, growth, 1, f].
    """

    def __init__(self, inputs: int, growth: int, layers: int, kernel: int) -> None:
        super().__init__()
        self.H = nn.ModuleList(
            nn.Conv2d(inputs + i * growth, growth, (1, kernel), padding=(0, kernel // 2)) for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.H[:-1]:
            x = torch.cat([convolution(x).relu_(), x], 1)
        return self.H[-1](x).relu_()


class TDCUNet(SeparationModel):
    """See the module. Batch normalisations are folded into their convolutions (`convert_state`)."""

    covers_mixture = False
    fixed_segment = True
    overlap = 0.0
    edge_padding = "zero"
    window: Tensor

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        values = _read(config)
        width, kernel, layers = values["internal_channels"], values["kernel_f"], values["layers_per_block"]
        levels = values["num_blocks"] // 2
        self.stems = tuple(stems)
        self.sample_rate = values["sample_rate"]
        self.channels = values["channels"]
        self.hop = values["hop"]
        self.edge = values["trim"]
        self.segment_length = self.hop * (values["dim_t"] - 1) + values["n_fft"]
        planes = 2 * self.channels  # real and imaginary part of every audio channel
        # two bins wide without padding: a frame's 1025 bins become 1024, and 1025 again at the end
        self.first_conv = nn.Conv2d(planes, width, (1, 2))
        self.encoders = nn.ModuleList(_DenseBlock(width, width, layers, kernel) for _ in range(levels))
        self.downsampling = nn.ModuleList(nn.Conv2d(width, width, (1, 2), stride=(1, 2)) for _ in range(levels))
        self.mid_block = _DenseBlock(width, width, layers, kernel)
        self.upsampling = nn.ModuleList(nn.ConvTranspose2d(width, width, (1, 2), stride=(1, 2)) for _ in range(levels))
        self.decoders = nn.ModuleList(_DenseBlock(2 * width, width, layers, kernel) for _ in range(levels))
        self.final_conv = nn.Conv2d(width, planes, (1, 2), padding=(0, 1))
        self.register_buffer("window", torch.hann_window(values["n_fft"]), persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> TDCUNet:
        """See `SeparationModel`. Keys: `_DEFAULTS`; one stem, the one the weights were trained for."""
        if len(stems) != 1:
            raise CheckpointError(f"tdc_unet gives one stem, {len(stems)} were asked: {', '.join(stems)}.")
        return cls(config, stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published state dict with its batch normalisations folded into the convolutions."""
        state = super().convert_state(config, states)
        expected = {
            name: tensor for name, tensor in cls(config, ("stem",)).state_dict().items() if name.endswith("weight")
        }
        folded: dict[str, Tensor] = {}
        used = set()
        for name, tensor in expected.items():
            layer = name.removesuffix(".weight")
            convolution, norm = _published_names(layer)
            names = [f"{convolution}.weight", f"{convolution}.bias"]
            if norm is not None:
                names += [f"{norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
            if missing := [n for n in names if n not in state]:
                raise CheckpointError(f"the weights lack {', '.join(missing)}, which a TDC U-Net of this config has.")
            weight, bias = state[names[0]].double(), state[names[1]].double()
            # published: along the last axis of three, or of frequency before time in the first and the last layer
            weight = weight.transpose(-1, -2) if weight.dim() == 4 else weight.unsqueeze(-2)
            if weight.shape != tensor.shape:
                raise CheckpointError(
                    f"the weights' {names[0]} has the sizes {tuple(weight.shape)}, expected {tuple(tensor.shape)}.",
                    hint="the config does not describe these weights.",
                )
            if norm is not None:
                gain, offset, mean, variance = (state[n].double() for n in names[2:])
                gain = gain / (variance + _BATCH_NORM_EPSILON).sqrt()
                outputs = (1, -1, 1, 1) if layer.startswith("upsampling") else (-1, 1, 1, 1)
                weight, bias = weight * gain.view(outputs), (bias - mean) * gain + offset
            folded[name], folded[f"{layer}.bias"] = weight.float(), bias.float()
            used.update(names)
        if unknown := [n for n in state if n not in used and not n.endswith("num_batches_tracked")]:
            raise CheckpointError(f"the weights hold {', '.join(unknown[:5])}, which a TDC U-Net does not have.")
        return folded

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, 1, C, T].

        Beyond the end are zeros, up to a whole number of frames. The outermost samples of the first and last frame
        stand where the window is almost zero: that is what `edge` drops.
        """
        batch, channels, length = mixture.shape
        n_fft = self.window.shape[0]
        missing = -(length - n_fft) % self.hop if length > n_fft else n_fft - length
        padded = F.pad(mixture, (0, missing))
        frames = frame_count(padded.shape[-1], n_fft, self.hop)
        x = torch.view_as_real(spectra(padded, self.window, self.hop))
        x = x.permute(0, 2, 3, 1, 4).reshape(batch * frames, 1, -1, 2 * channels)  # [(b n), 1, f, (c 2)]
        y = torch.cat([self._network(part.permute(0, 3, 1, 2)) for part in x.split(_FRAMES)])
        y = y.view(batch, frames, channels, 2, -1).permute(0, 2, 1, 4, 3).contiguous()
        added = OverlapAdd((batch, channels), frames, self.window, self.hop)
        added.add((), torch.view_as_complex(y), 0)
        return added.signal(0, length)[:, None]

    def _network(self, x: Tensor) -> Tensor:
        """Spectra as channels, [n, 2 C, 1, F] -> the stem's, the same shape."""
        x = self.first_conv(x).relu_()
        skips = []
        for block, down in zip(self.encoders, self.downsampling, strict=True):
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.mid_block(x)
        for block, up in zip(self.decoders, self.upsampling, strict=True):
            x = block(torch.cat([up(x), skips.pop()], 1))
        return self.final_conv(x)


def _published_names(layer: str) -> tuple[str, str | None]:
    """Names of a convolution and of the batch normalisation after it, in the published state dict."""
    if layer == "first_conv":
        return "first_conv.0", "first_conv.1"
    if layer == "final_conv":
        return "final_conv.0", None
    if layer.startswith(("downsampling", "upsampling")):
        return f"{layer}.conv", f"{layer}.bn"
    return f"{layer}.0", f"{layer}.1"
