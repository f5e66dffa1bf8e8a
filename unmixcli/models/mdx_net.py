"""MDX-Net (TFC-TDF U-Net v2): the stem's spectrum from the mixture's, read from the published ONNX files.

"KUIELab-MDX-Net: A Two-Stream Neural Network for Music Demixing" (Kim, Choi, Chung, Lee & Jung, MDX workshop 2021,
arXiv:2111.12203), the first of its two streams, and the networks of the same shape that Ultimate Vocal Remover
publishes. Checked against the same graph in onnxruntime, and against the protocol of `audio-separator` 0.47.1
(docs/benchmarks/mdx_net.py). Left out: the second stage of the paper, which mixes in Demucs.

A file's graph is compared node by node with this network's (`mdx_net_read.py`); one that differs is refused, and
`onnx_spectrogram` runs it. How tracks are cut and what the second stem is stands in `mdx_protocol.py`.

Legend: b batch, n frame, f bin, c channel of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from unmixcli.errors import CheckpointError
from unmixcli.models.mdx_net_read import GraphWalk, sizes_of
from unmixcli.models.mdx_protocol import SpectrogramModel, read_signal, rename
from unmixcli.models.settings import require
from unmixcli.models.tfc_tdf import convolve, convolve_into, frames_at_once, narrow_bins, widen_bins_into
from unmixcli.onnx_read import ONNX_FILE, read_graph

# growth and first width, blocks (both sides and the middle), convolutions in a block, their kernel, bottleneck factor
_NETWORK: dict[str, Any] = {"g": 48, "L": 11, "l": 3, "k": 3, "bn": 8}


class _Block(nn.Module):
    """TFC-TDF: convolutions, and what two layers over frequency add to them. [n, f, c] -> the same, edited.

    After each layer over frequency stand a gain and an offset per channel, and a ReLU. The second gain is applied
    before its layer, where there is less to multiply.
    """

    def __init__(self, channels: int, bins: int, *, layers: int, kernel: int, factor: int) -> None:
        super().__init__()
        self.tfc = nn.ModuleList(nn.Conv2d(channels, channels, kernel, padding=kernel // 2) for _ in range(layers))
        self.narrow = _OverFrequency(bins, bins // factor, channels)
        self.wide = _OverFrequency(bins // factor, bins, channels)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.tfc:
            convolve_into(x, convolution, x, after=lambda y, place: y.relu_())  # type: ignore[arg-type]
        y = narrow_bins(self.narrow.weight, x).mul_(self.narrow.gain).add_(self.narrow.offset).relu_()
        return widen_bins_into(x, self.wide.weight, y.mul_(self.wide.gain), offset=self.wide.offset)


class _OverFrequency(nn.Module):
    """The weights of a layer over frequency, and what is left of the batch normalisation after it."""

    def __init__(self, inputs: int, outputs: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.gain = nn.Parameter(torch.ones(channels))
        self.offset = nn.Parameter(torch.zeros(channels))


class MDXNet(SpectrogramModel):
    """See the module.

    Raises:
        CheckpointError: settings it can't be built with.
    """

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__("mdx_net", config, stems, _NETWORK)
        width, layers, kernel, factor = (self.values[name] for name in ("g", "l", "k", "bn"))
        levels = self.values["L"] // 2
        step = 2**levels * max(factor, 1)
        require(
            "mdx_net",
            (
                (1 <= width <= 1024, f"g is {width}, expected 1..1024"),
                (self.values["L"] in range(3, 18, 2), f"L is {self.values['L']}, expected an odd number from 3 to 17"),
                (1 <= layers <= 16, f"l is {layers}, expected 1..16"),
                (kernel in (1, 3, 5, 7), f"k is {kernel}, expected 1, 3, 5 or 7"),
                (factor >= 1, f"bn is {factor}, expected at least 1"),
                (self.bins % step == 0, f"dim_f is {self.bins}, expected a multiple of {step} (2^(L // 2) · bn)"),
            ),
        )
        self.frame_multiple = 2**levels
        parts = 2 * self.channels
        widths = [width * (level + 1) for level in range(levels + 1)]

        def block(level: int) -> _Block:
            return _Block(widths[level], self.bins // 2**level, layers=layers, kernel=kernel, factor=factor)

        self.first = nn.Conv2d(parts, width, 1)
        self.encoders = nn.ModuleList(block(level) for level in range(levels))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = block(levels)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(widths[level + 1], widths[level], 2, stride=2) for level in reversed(range(levels))
        )
        self.decoders = nn.ModuleList(block(level) for level in reversed(range(levels)))
        self.final = nn.Conv2d(width, parts, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> MDXNet:
        """See `SeparationModel`. Keys: primary_stem, `_SIGNAL`, `_NETWORK`; n_fft must be given."""
        return cls(config, stems)

    @classmethod
    def complete_config(cls, config: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The config with the sizes that the file's graph tells and it lacks."""
        described = next(iter(settings.values()), {}).get("onnx", {})
        return {**sizes_of(described), **rename(config)}

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The weights in an ONNX file, batch normalisations folded.

        Raises:
            CheckpointError: it is none, or its graph is another than this network's.
        """
        state = super().convert_state(config, states)
        if set(state) != {ONNX_FILE}:
            raise CheckpointError("these weights are no ONNX file, which MDX-Net is published as.")
        values = read_signal("mdx_net", config, _NETWORK)
        graph = read_graph(state[ONNX_FILE].numpy().data)
        return GraphWalk(graph).network(values["L"] // 2, values["l"])

    def network(self, x: Tensor) -> Tensor:
        """Spectra as channels, [b, n, f, 4] -> the stem's."""
        return torch.stack([self._network(item) for item in x])

    def _network(self, x: Tensor) -> Tensor:
        y = convolve(self.first, x).relu_()
        skips = []
        for block, down in zip(self.encoders, self.down, strict=True):
            y = block(y)
            skips.append(y)
            y = convolve(down, y).relu_()
        y = self.middle(y)
        for block, up in zip(self.decoders, self.up, strict=True):
            y = block(_scaled(skips.pop(), up, y))
        return convolve(self.final, y)


def _scaled(skip: Tensor, up: nn.Module, y: Tensor) -> Tensor:
    """The skip times the finer grid that `up` makes of y, some frames at a time; the skip is edited."""
    step = max(1, frames_at_once(skip) // 2)
    for start in range(0, y.shape[0], step):
        part = convolve(up, y[start : start + step])
        skip[2 * start : 2 * start + part.shape[0]] *= part.relu_()
    return skip
