"""What the networks of the Demucs family share: residual blocks, and packages that hold their arguments.

"Hybrid Spectrogram and Waveform Source Separation" (Défossez, MDX workshop 2021, arXiv:2111.03600) describes the
blocks: dilated convolutions with a recurrent and an attention layer between them in the deep levels. Checked against
the public package `demucs` (docs/benchmarks.md has versions and figures).

Legend: b batch, c channel of the network, t frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.base import SeparationModel
from unmixcli.models.onednn import Conv1d, Linear
from unmixcli.models.settings import FOUR_STEMS, read_sources, without_memory
from unmixcli.quantized import SETTINGS, name_tensors

_STEPS = 200  # frames that an LSTM sees at once; it is run on overlapping pieces of longer signals
_DECAYS = 4
_HEADS = 4
_DIAGONAL = -100.0  # a frame does not attend itself


class LayerScale(nn.Module):
    """A learned gain per channel. Who has one applies it where the input is added, in one pass."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(channels))


class BLSTM(nn.Module):
    """Two bidirectional LSTM layers with a linear layer back to `channels`, [b, c, t] -> [b, c, t].

    With `pieces` (Demucs v3) the input is added to the output, and a signal of more than 200 frames is run in pieces
    of 200, 100 apart, of which the middle halves are kept.
    """

    def __init__(self, channels: int, layers: int = 2, *, pieces: bool = True) -> None:
        super().__init__()
        self.pieces = pieces
        self.lstm = nn.LSTM(channels, channels, num_layers=layers, bidirectional=True)
        self.linear = Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        if not self.pieces:
            return self._run(x)
        if length <= _STEPS:
            return self._run(x) + x
        stride, edge = _STEPS // 2, _STEPS // 4
        count = math.ceil(length / stride)
        padded = F.pad(x, (0, (count - 1) * stride + _STEPS - length))
        cut = padded.unfold(-1, _STEPS, stride).transpose(1, 2)  # [b, piece, c, t]
        done = self._run(cut.reshape(batch * count, channels, _STEPS)).view(batch, count, channels, _STEPS)
        middle = done[:, 1:-1, :, edge:-edge].transpose(1, 2).reshape(batch, channels, -1)
        whole = torch.cat([done[:, 0, :, :-edge], middle, done[:, -1, :, edge:]], -1)
        return whole[..., :length] + x

    def _run(self, x: Tensor) -> Tensor:
        return self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)


class LocalState(nn.Module):
    """Attention that fades with distance at a rate each frame chooses, [b, c, t] -> [b, c, t], input added.

    The published penalty of key frame t for query frame s is Σ_f f·|t-s|/√4 · σ(d_f(s))/2, f = 1..4: a slope that
    depends on s only, times the distance.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.content = Conv1d(channels, channels, 1)
        self.query = Conv1d(channels, channels, 1)
        self.key = Conv1d(channels, channels, 1)
        self.query_decay = Conv1d(channels, _HEADS * _DECAYS, 1)
        self.proj = Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, length = x.shape
        query, key, content = (
            layer(x).view(batch, _HEADS, -1, length) for layer in (self.query, self.key, self.content)
        )
        rates = torch.arange(1, _DECAYS + 1, device=x.device, dtype=x.dtype) / (2 * math.sqrt(_DECAYS))
        decays = torch.sigmoid(self.query_decay(x).view(batch, _HEADS, _DECAYS, length))
        slope = torch.einsum("f,bhfs->bhs", rates, decays)
        place = torch.arange(length, device=x.device, dtype=x.dtype)
        distance = (place[:, None] - place).abs()
        logits = query.transpose(2, 3) @ key  # [b, head, s, t]
        logits *= key.shape[2] ** -0.5
        logits -= slope[..., None] * distance
        logits.diagonal(dim1=-2, dim2=-1).fill_(_DIAGONAL)
        result = content @ torch.softmax(logits, -1).transpose(2, 3)
        return x + self.proj(result.reshape(batch, -1, length))


class DConv(nn.Module):
    """A chain of residual blocks of dilated convolutions, [b, c, t] -> [b, c, t].

    Args:
        channels: c.
        compress: the blocks work on c / compress channels.
        depth: blocks; the dilation doubles from one to the next.
        lstm, attention: whether a block has these layers in its middle.
    """

    def __init__(
        self, channels: int, *, compress: float, depth: int, lstm: bool = False, attention: bool = False
    ) -> None:
        super().__init__()
        hidden = int(channels / compress)
        self.layers = nn.ModuleList()
        for level in range(depth):
            dilation = 2**level
            layers: list[nn.Module] = [
                Conv1d(channels, hidden, 3, dilation=dilation, padding=dilation),
                nn.GroupNorm(1, hidden),
                nn.GELU(),
            ]
            if lstm:
                layers.append(BLSTM(hidden))
            if attention:
                layers.append(LocalState(hidden))
            layers += [Conv1d(hidden, 2 * channels, 1), nn.GroupNorm(1, 2 * channels), nn.GLU(1)]
            self.layers.append(nn.Sequential(*layers, LayerScale(channels)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            *block, gain = layer.children()
            assert isinstance(gain, LayerScale)
            y = x
            for part in block:
                y = part(y)
            x = torch.addcmul(x, y, gain.scale[:, None])
        return x


def group_norm(channels: int, groups: int, wanted: bool) -> nn.Module:
    """The norm of a level, or nothing in its place."""
    return nn.GroupNorm(groups, channels) if wanted else nn.Identity()


# ---------------------------------------------------------------- packages


def stored_arguments(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The constructor's arguments in the only package of `settings` (`checkpoint_read.find_settings`), by name.

    The first one may stand without its name: the sources. Version 1 counts them and does not name them; four are those
    of every later version.
    """
    package = next(iter(settings.values()), {})
    values = dict(package.get("kwargs", {}))
    if args := package.get("args"):
        values.setdefault("sources", args[0])
    if isinstance(values.get("sources", values.get("C")), int):
        count = values.pop("sources", values.pop("C", None))
        if count == len(FOUR_STEMS):
            values["sources"] = list(FOUR_STEMS)
    return values


def named_state(
    model: type[SeparationModel], config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The published tensors of a network whose parameters stand in the published order; quantised ones unpacked."""
    if SETTINGS not in state:
        return dict(state)
    sources = read_sources(model.__name__, config, config.get("sources", FOUR_STEMS))
    with torch.device("meta"):
        network = model.from_config(config, sources)
    return name_tensors(state, [(name, parameter.shape) for name, parameter in network.named_parameters()])


class PackagedNetwork(SeparationModel):
    """A network whose file holds its constructor's arguments, and which is built without memory for its weights."""

    normalization = "track"

    def __init__(
        self, architecture: str, values: Mapping[str, Any], config: Mapping[str, Any], stems: Sequence[str]
    ) -> None:
        super().__init__()
        self.values = values
        self.sources = read_sources(architecture, config, stems)
        self.stems = tuple(stems)
        self.sample_rate, self.channels = values["samplerate"], values["audio_channels"]
        self._wanted = [self.sources.index(stem) for stem in stems]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> PackagedNetwork:
        """See `SeparationModel`. Keys: the published constructor's arguments; `sources` names all outputs of the
        weights (default: the stems asked)."""
        return cls(config, stems)  # type: ignore[call-arg,arg-type]

    @classmethod
    def complete_config(cls, config: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The arguments stored in the file, with the entry's own laid over them."""
        return {**stored_arguments(settings), **config}

    def adopt(self, build: Callable[[], nn.Module]) -> None:
        """Take the parts of a module, made without memory, under their names: the published ones."""
        for name, part in without_memory(build).named_children():
            setattr(self, name, part)
