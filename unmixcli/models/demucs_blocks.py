"""What the networks of the Demucs family share: residual blocks, settings of their packages, weights without memory.

"Hybrid Spectrogram and Waveform Source Separation" (Défossez, MDX workshop 2021, arXiv:2111.03600) describes the
blocks: dilated convolutions with a recurrent and an attention layer between them in the deep levels. Checked against
the public package `demucs` (docs/benchmarks.md has versions and figures).

Legend: b batch, c channel of the network, t frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.onednn import Conv1d, Linear
from unmixcli.quantized import SETTINGS, name_tensors

FOUR_STEMS = ("drums", "bass", "other", "vocals")
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


# ---------------------------------------------------------------- settings


def read_settings(
    architecture: str,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    only: Mapping[str, Any],
    ignored: Iterable[str],
) -> dict[str, Any]:
    """A package's settings, checked, with the published defaults for those it leaves out.

    Args:
        architecture: name for messages.
        config: published names and values.
        defaults: what is used, with the published default; its type is the expected one.
        only: settings whose other values no released checkpoint has: the value that must stand.
        ignored: settings that matter to training only.

    Raises:
        CheckpointError: an unknown name, a value of a wrong type or out of range, an option that isn't there.
    """
    ignored = frozenset(ignored)
    if unknown := set(config) - set(defaults) - set(only) - ignored - {"sources"}:
        raise CheckpointError(f"{architecture} has no {', '.join(sorted(unknown))} in its config.")
    for name, value in only.items():
        if name in config and config[name] != value:
            raise CheckpointError(f"{architecture}'s {name} is {config[name]!r}; only {value!r} is supported.")
    values = dict(defaults)
    for name in defaults:
        if name in config:
            values[name] = _checked(architecture, name, config[name], defaults[name])
    return values


def _checked(architecture: str, name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        good, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        good, expected = type(value) is int and 0 <= value <= 1_000_000, "a whole number from 0 to 1000000"
    elif isinstance(default, float):
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1e9
        expected = "a number from 0 to 1e9"
    elif isinstance(default, Fraction):
        return seconds(architecture, name, value)
    elif isinstance(default, tuple):
        value = () if value is None else value  # the published default
        good = isinstance(value, (list, tuple)) and all(type(item) in (int, float) and 0 < item < 1 for item in value)
        value, expected = tuple(value) if good else value, "a list of numbers between 0 and 1"
    else:
        raise TypeError(f"no rule for a {type(default).__name__}")
    if not good:
        raise CheckpointError(f"{architecture}'s {name} is {value!r}, expected {expected}.")
    return value


def seconds(architecture: str, name: str, value: Any) -> Fraction:
    """A number of seconds: a number, or a fraction as text ("39/5").

    Raises:
        CheckpointError: it is none, or not between 0 and an hour.
    """
    try:
        # by way of text, so that 7.8 is 39/5
        number = Fraction(str(value)) if isinstance(value, (int, float, str)) and len(str(value)) < 40 else None
    except (ValueError, ZeroDivisionError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or not 0 < number <= 3600:
        raise CheckpointError(f"{architecture}'s {name} is {value!r}, expected seconds, 0 to 3600.")
    return number


def read_sources(
    architecture: str, config: Mapping[str, Any], stems: Iterable[str], *, key: str = "sources"
) -> tuple[str, ...]:
    """All outputs of the network, in its order: the config's `sources` (or `key`), or else the stems asked for.

    Raises:
        CheckpointError: a stem that isn't among them.
    """
    stems = tuple(stems)
    sources = config.get(key, stems)
    if not isinstance(sources, (list, tuple)) or not sources or not all(isinstance(name, str) for name in sources):
        raise CheckpointError(f"{architecture}'s {key} are {sources!r}, expected a list of names.")
    if missing := [stem for stem in stems if stem not in sources]:
        raise CheckpointError(f"these weights have no stem {', '.join(missing)}; they give {', '.join(sources)}.")
    return tuple(sources)


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


def require(architecture: str, rules: Iterable[tuple[bool, str]]) -> None:
    """Check settings against each other.

    Raises:
        CheckpointError: with the message of the first rule that doesn't hold.
    """
    for holds, message in rules:
        if not holds:
            raise CheckpointError(f"{architecture}'s {message}.")


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


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """A module of zeros: drawing random numbers that the weights replace anyway takes a second for 80 million."""
    with torch.device("meta"):
        module = build()
    return module._apply(lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))


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
