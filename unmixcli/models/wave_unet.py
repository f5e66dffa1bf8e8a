"""Wave-U-Net: a U-Net on the waveform itself, twelve times halved, whose convolutions see only what is there.

"Wave-U-Net: A Multi-Scale Neural Network for End-to-End Audio Source Separation" (Stoller, Ewert & Dixon, ISMIR 2018,
arXiv:1806.03185): all variants of the paper (M1 to M7, M5-HighSR), checked against the public TensorFlow code
(`f90/Wave-U-Net`, MIT) on TensorFlow 2.15. With more `source_names` than sound at a time it is the Expanded, with
`conditioning` the Conditioned Wave-U-Net of Slizovskaia et al., see `wave_unet_labels.py`. Left out: the spectrogram
U-Nets U7 and U7a of the same paper.

With `context` a network gives fewer samples than it hears: (n - m) g + m of (n + 2k - 3) g - k + 2, where n are the
samples at its bottom, g = 2^levels, k and m the lengths of its kernels: 16 389 of 147 443 as published. Samples that
are g apart are treated alike, so used parts that begin at multiples of g (`segment_multiple`) are those of the whole
track at once, whatever their length: there is nothing to cross-fade, and a segment may be far longer than the published
one, most of which was context. The published program sets pieces of 16 389 samples side by side, each on its own grid.

Without `context` the convolutions see zeros at the ends of every piece of 16 384 samples. The published program sets
those side by side, which is heard; here they overlap by half (`--overlap 0` is the published way).

Legend: b batch, s source, c audio channel, h channel of the network, t sample.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.onednn import Conv1d
from unmixcli.models.settings import require
from unmixcli.models.wave_unet_labels import CONDITIONINGS, PLACES, Conditioning, read_labels
from unmixcli.models.wave_unet_weights import from_tensorflow, is_tensorflow

NAME = "wave_unet"
_SLOPE = 0.2
_SAMPLES_USED = 1 << 18  # of a segment: with the published context of 131 059 beside them

_DEFAULTS: dict[str, Any] = {
    "num_layers": 12, "num_initial_filters": 24, "filter_size": 15, "merge_filter_size": 5, "num_frames": 16384,
    "expected_sr": 22050, "mono_downmix": True, "context": False, "output_type": "direct", "output_activation": "tanh",
    "upsampling": "linear", "conditioning": "none", "place": "bottleneck",
}  # fmt: skip
_CHOICES = {
    "output_type": ("direct", "difference"),
    "output_activation": ("tanh", "linear"),
    "upsampling": ("linear", "learned"),
    "conditioning": ("none", *CONDITIONINGS),
    "place": PLACES,
}
# of the published settings: what only one value has here, and what has no meaning for separation
_ONLY = {"network": "unet", "output_filter_size": 1}
_IGNORED = frozenset(
    {
        "musdb_path", "estimates_path", "data_path", "model_base_dir", "log_dir", "batch_size", "init_sup_sep_lr",
        "epoch_it", "cache_size", "num_workers", "num_snippets_per_track", "augmentation", "raw_audio_loss",
        "worse_epochs", "num_sources", "num_channels", "duration", "min_replacement_rate", "num_disc_filters",
        "num_disc_layers",
    }
)  # fmt: skip
_TASKS = {"voice": ("accompaniment", "vocals"), "multi_instrument": ("bass", "drums", "other", "vocals")}


class WaveUNet(SeparationModel):
    """See the module.

    Args:
        config: see `from_config`.
        stems: the outputs, some of the sources.

    Raises:
        CheckpointError: settings that a Wave-U-Net does not have.
    """

    trainable = True
    edge_padding = "zero"

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        self.values = _read(config)
        self.sources = _sources(config, stems)
        self.stems = tuple(stems)
        self._outputs = [self.sources.index(stem) for stem in stems]
        self.sample_rate, self.channels = self.values["expected_sr"], 1 if self.values["mono_downmix"] else 2
        # An expanded or conditioned network knows instruments that don't play: what is left over is not theirs.
        everything = self.values["conditioning"] == "none" and len(self.sources) <= 4
        self.covers_mixture = everything and len(self.stems) == len(self.sources)
        self._lay_out_segments()
        self._build(read_labels(config, self.sources))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> WaveUNet:
        """See `SeparationModel`. Keys: those of the public code's `model_config`, of which `task` or `source_names`
        name the outputs of the weights (default: the stems asked), and `conditioning`, `place` and `labels` of
        `wave_unet_labels`."""
        return cls(config, stems)

    @classmethod
    def known_labels(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """See `SeparationModel`."""
        if config.get("conditioning", "none") == "none":
            return ()
        return _sources(config, ())

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The module's own state dict, or the variables of a TensorFlow checkpoint (the optimiser's are left out)."""
        if len(states) != 1:
            raise TypeError(f"{cls.__name__} takes one file, {len(states)} were given")
        (state,) = states.values()
        if not is_tensorflow(state):
            return dict(state)
        values = _read(config)
        return from_tensorflow(state, values["num_layers"], learned=values["upsampling"] == "learned")

    # ------------------------------------------------------------ sizes

    def _lay_out_segments(self) -> None:
        values = self.values
        self._grid = 2 ** values["num_layers"]
        self.segment_multiple = self._grid
        self.overlap, used = 0.5, -(-values["num_frames"] // self._grid) * self._grid
        self._context = 0  # samples on each side that a whole forward pass takes away
        if values["context"]:
            kernel, merge = values["filter_size"], values["merge_filter_size"]
            self._context = ((2 * kernel - 3 + merge) * self._grid - kernel + 2 - merge) // 2
            # a multiple of the grid takes `merge` samples more: the network gives them as well
            self.edge = self._context + merge
            self.overlap, used = 0.0, max(1, _SAMPLES_USED // self._grid) * self._grid
        self.segment_length = used + 2 * self.edge

    def lengths(self, wanted: int) -> tuple[int, int]:
        """Samples in and out of the smallest forward pass that gives `wanted` samples."""
        if not self.values["context"]:
            whole = -(-wanted // self._grid) * self._grid
            return whole, whole
        merge = self.values["merge_filter_size"]
        given = max(1, -(-(wanted - merge) // self._grid)) * self._grid + merge
        return given + 2 * self._context, given

    # ------------------------------------------------------------ layers

    def _build(self, labels: Sequence[int]) -> None:
        values, count = self.values, len(self.sources)
        levels, first, kernel = values["num_layers"], values["num_initial_filters"], values["filter_size"]
        widths = [self.channels, *(first * (level + 1) for level in range(levels + 1))]
        kind, place = values["conditioning"], values["place"]
        places = {"before": self.channels, "bottleneck": widths[-1], "after": first}
        self.condition: Conditioning | None = None
        if kind != "none":
            self.condition = Conditioning(kind, places[place], labels, count)
            places[place] = self.condition.channels
        widths[0], deepest = places["before"], places["bottleneck"]
        padding = 0 if values["context"] else kernel // 2
        self.down = nn.ModuleList(Conv1d(a, b, kernel, padding=padding) for a, b in pairwise(widths))
        merge = values["merge_filter_size"]
        padding = 0 if values["context"] else merge // 2
        risen = [deepest, *widths[-2:1:-1]]
        self.up = nn.ModuleList(
            Conv1d(width + below, width, merge, padding=padding)
            for width, below in zip(widths[-2:0:-1], risen, strict=True)
        )
        learned = values["upsampling"] == "learned"
        self.interpolation = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in risen) if learned else None
        outputs = count - 1 if values["output_type"] == "difference" else count
        self.output = Conv1d(self.channels + places["after"], outputs * self.channels, 1)
        for layer in (*self.down, *self.up, self.output):
            assert isinstance(layer, nn.Conv1d)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]. With context the edges are left silent, unless there is nothing
        else: a signal that short is heard with silence around it."""
        length, merge = mixture.shape[-1], self.values["merge_filter_size"]
        if not self.values["context"]:
            return self._centre(F.pad(mixture, (0, -length % self._grid)))[..., :length]
        if length <= 2 * self.edge:
            heard, _ = self.lengths(length)
            return self._centre(F.pad(mixture, (self._context, heard - self._context - length)))[..., :length]
        # the used part begins at a multiple of the grid: so must what the network sees
        heard, _ = self.lengths(length - 2 * self.edge)
        seen = F.pad(mixture[..., merge:], (0, max(0, heard + merge - length)))[..., :heard]
        centre = self._centre(seen)[..., : length - 2 * self.edge]
        return F.pad(centre, (self.edge, self.edge))

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """With context: the middle of the excerpt only, as much of it as the network gives."""
        if not self.values["context"]:
            return {"waveforms": self(mixture)}
        length = mixture.shape[-1]
        least, _ = self.lengths(1)
        if length < least:
            return {"waveforms": self(mixture)}
        left = (length - least) % self._grid
        return {"waveforms": self._centre(mixture[..., left // 2 : length - (left - left // 2)])}

    def hint(self, references: Tensor) -> None:
        """See `SeparationModel`: a conditioned network is told which sources sound."""
        if self.condition is not None:
            every = references.new_zeros(len(references), len(self.sources), *references.shape[2:])
            every[:, self._outputs] = references
            self.condition.listen(every)

    def _centre(self, x: Tensor) -> Tensor:
        """What the network gives: [b, c, t] of a length of `lengths` -> [b, s, c, t'], t' its output."""
        condition, place = self.condition, self.values["place"]
        h = x if condition is None or place != "before" else condition(x)
        *down, deepest = self.down
        skips = []
        for layer in down:
            skips.append(_leaky(layer(h)))
            h = skips[-1][..., ::2]
        h = _leaky(deepest(h))
        if condition is not None and place == "bottleneck":
            h = condition(h)
        for level, layer in enumerate(self.up):
            weights = None if self.interpolation is None else torch.sigmoid(self.interpolation[level])
            h = _leaky(layer(_joined(skips.pop(), h, weights, whole=not self.values["context"])))
        if condition is not None and place == "after":
            h = condition(h)
        cut = (x.shape[-1] - h.shape[-1]) // 2
        heard = x[..., cut : cut + h.shape[-1]]
        return self._chosen(heard, self.output(torch.cat([heard, h], 1)))

    def _chosen(self, heard: Tensor, outputs: Tensor) -> Tensor:
        """The stems: [b, c, t] and what the last layer gives, [b, (s c), t] -> [b, s, c, t]."""
        estimates = outputs.unflatten(1, (-1, self.channels))
        if self.values["output_activation"] == "tanh":
            estimates = estimates.tanh()
        elif not self.training:
            estimates = estimates.clamp(-1, 1)
        if self.values["output_type"] == "difference":
            rest = heard[:, None] - estimates.sum(1, keepdim=True)
            estimates = torch.cat([estimates, rest if self.training else rest.clamp(-1, 1)], 1)
        return estimates if self.stems == self.sources else estimates[:, self._outputs]


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE, inplace=not torch.is_grad_enabled())


def _joined(skip: Tensor, low: Tensor, weights: Tensor | None, *, whole: bool) -> Tensor:
    """The middle of `skip`, and `low` with a sample between each two: [b, h, t], [b, h', n] -> [b, h + h', 2n - 1].

    With `whole`, 2n samples, the last of them what follows when silence does (learned), or the last again (linear).

    Args:
        weights: how much of the sample before is in each new one, [h']; None: half.
    """
    batch, channels, count = low.shape
    length = 2 * count if whole else 2 * count - 1
    cut = (skip.shape[-1] - length) // 2
    joined = low.new_empty(batch, skip.shape[1] + channels, length)
    joined[:, : skip.shape[1]] = skip[..., cut : cut + length]
    raised = joined[:, skip.shape[1] :]
    raised[..., ::2] = low
    before, after = low[..., :-1], low[..., 1:]
    raised[..., 1 : 2 * count - 1 : 2] = torch.lerp(after, before, 0.5 if weights is None else weights[:, None])
    if whole:
        last = low[..., -1]
        raised[..., -1] = last if weights is None else last * weights
    return joined


# ---------------------------------------------------------------- settings


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with defaults filled in, checked."""
    names = {*_DEFAULTS, *_ONLY, *_IGNORED, "task", "source_names", "labels", "input_filter_size"}
    if unknown := set(config) - names:
        raise CheckpointError(f"{NAME} has no {', '.join(sorted(unknown))} in its config.")
    values = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in values.items():
        kind = type(_DEFAULTS[name])
        if type(value) is not kind:
            raise CheckpointError(
                f"{NAME}'s {name} is {value!r}, expected {'a whole number' if kind is int else kind}."
            )
    require(
        NAME,
        (
            *((values[key] in words, f"{key} is {values[key]!r}, expected {', '.join(words)}")
              for key, words in _CHOICES.items()),
            *((config.get(key, value) == value, f"{key} is {config.get(key)!r}; only {value!r} is supported")
              for key, value in _ONLY.items()),
            (1 <= values["num_layers"] <= 20, f"num_layers is {values['num_layers']}, expected 1 to 20"),
            (1 <= values["num_initial_filters"] <= 4096, f"num_initial_filters is {values['num_initial_filters']}"),
            (1 <= values["num_frames"] <= 1 << 24, f"num_frames is {values['num_frames']}, expected 1 to 2^24"),
            (1 <= values["expected_sr"] <= 1 << 20, f"expected_sr is {values['expected_sr']}, expected Hz"),
            *((1 <= values[key] <= 999 and values[key] % 2 == 1, f"{key} is {values[key]}, expected an odd number")
              for key in ("filter_size", "merge_filter_size")),
            (config.get("input_filter_size", values["filter_size"]) == values["filter_size"],
             "input_filter_size is not filter_size, which is not supported"),
            (config.get("task", "voice") in _TASKS, f"task is {config.get('task')!r}, expected {', '.join(_TASKS)}"),
        ),
    )  # fmt: skip
    return values


def _sources(config: Mapping[str, Any], stems: Sequence[str]) -> tuple[str, ...]:
    sources = config.get("source_names", _TASKS[config["task"]] if "task" in config else stems)
    if not isinstance(sources, (list, tuple)) or not all(isinstance(name, str) for name in sources):
        raise CheckpointError(f"{NAME}'s source_names are {sources!r}, expected a list of names.")
    require(
        NAME,
        (
            (len(set(sources)) == len(sources) >= 1, f"source_names are {list(sources)!r}, expected different ones"),
            (
                config.get("output_type", "direct") == "direct" or len(sources) > 1,
                "output is a difference, which takes two sources",
            ),
        ),
    )
    if missing := [stem for stem in stems if stem not in sources]:
        raise CheckpointError(f"these weights have no stem {', '.join(missing)}; they give {', '.join(sources)}.")
    return tuple(sources)
