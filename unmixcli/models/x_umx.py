"""X-UMX: Open-Unmix whose networks, one per source, share what they have heard.

"All for One and One for All: Improving Music Separation by Bridging Networks" (Sawata, Uhlich, Takahashi & Mitsufuji,
ICASSP 2021, arXiv:2010.04228). Checked against the public package `asteroid` 0.7.0 (`asteroid.models.x_umx`, which
still runs when its calls of the Fourier transform are translated) and against norbert's filter, which its recipe
applies to the networks' magnitudes. Left out: training, and spectrograms that are not magnitudes.

The networks are averaged twice: each one's LSTM reads the mean of all encoded mixtures, and each one's decoder reads
the mean of all that was encoded and remembered. So every stem needs all networks. The filter, the segments and the
memory they take are those of `open_unmix.py`; the recipe filters a whole track at once, with one iteration. `niter` 0
gives the networks' masks times the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.models.open_unmix import RESIDUAL, OpenUnmix, Shape, fold
from unmixcli.models.settings import require

# Published names -> Open-Unmix's. What has no other name there stands in both.
_NAMES = {"in_chan": "nfft", "n_hop": "nhop"}
_SHARED = ("hidden_size", "nb_channels", "nb_layers", "niter", "wiener_win_len", "softmask", "residual")
_OWN = ("sources", "sample_rate", "window_length", "max_bin", "bidirectional", "spec_power")
# statistics that are among the weights as well, and what the published network returns
_IGNORED = ("input_mean", "input_scale", "return_time_signals")
_DEFAULT_LENGTH = 4096


class XUMX(OpenUnmix):
    """See the module. Arguments as for `OpenUnmix`; `targets` are all sources of the weights, in their order."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> XUMX:
        """See `SeparationModel`. Keys: the published constructor's arguments, whose `sources` are the names of all
        networks (default: the stems asked), and `niter`, `wiener_win_len`, `softmask` and `residual` as Open-Unmix has
        them."""
        shape = Shape.read(_settings(config))
        sources = _sources(config, stems)
        known = [*sources, RESIDUAL] if shape.residual else sources
        if missing := [stem for stem in stems if stem not in known]:
            raise CheckpointError(f"these weights have no stem {', '.join(missing)}; they give {', '.join(known)}.")
        if shape.niter > 0 and len(known) < 2:
            raise CheckpointError(
                f"the Wiener filter of x_umx needs two sources, there is only {known[0]}.",
                hint="set niter to 0, or residual to true.",
            )
        return cls(shape, sources, stems)

    @classmethod
    def complete_config(cls, config: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The arguments stored in the file, with the entry's own laid over them."""
        return {**next(iter(settings.values()), {}).get("kwargs", {}), **config}

    @classmethod
    def parts_needed(cls, config: Mapping[str, Any], parts: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
        """All networks are in one file."""
        return tuple(parts)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published state dict, each source's network folded."""
        if len(states) != 1:
            raise TypeError(f"{cls.__name__} takes one file, {len(states)} were given")
        (state,) = states.values()
        shape = Shape.read(_settings(config))
        own = [name.split(".")[1] for name in state if name.startswith("layer_lstm.")]
        networks: dict[str, dict[str, Tensor]] = {source: {} for source in _sources(config, list(dict.fromkeys(own)))}
        for name, tensor in state.items():
            if name in ("encoder.0.window", "decoder.window"):
                continue
            source, ours = _place(name)
            if source not in networks:
                raise CheckpointError(
                    f"the weights hold {name}, which an X-UMX of {', '.join(networks)} does not have."
                )
            networks[source][ours] = tensor
        return {
            f"networks.{source}.{name}": tensor
            for source, published in networks.items()
            for name, tensor in fold(shape, source, published).items()
        }

    def remember(self, encoded: Tensor) -> Tensor:
        """See `OpenUnmix`."""
        networks = self._targets()
        shared = encoded.mean(0)
        remembered = torch.zeros_like(shared)
        for network in networks:
            remembered += network.lstm(shared)[0]
        both = torch.cat([shared, remembered.div_(len(networks))], -1)
        for j, network in enumerate(networks):
            encoded[j] = network.fc2(both).relu_()
        return encoded


def _sources(config: Mapping[str, Any], default: Sequence[str]) -> list[str]:
    sources = config.get("sources", default)
    if not isinstance(sources, (list, tuple)) or not sources or not all(isinstance(name, str) for name in sources):
        raise CheckpointError(f"x_umx's sources are {sources!r}, expected a list of names.")
    return [name for name in sources if name != RESIDUAL]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The published arguments as Open-Unmix's settings."""
    if unknown := set(config) - {*_NAMES, *_SHARED, *_OWN, *_IGNORED}:
        raise CheckpointError(f"x_umx has no {', '.join(sorted(unknown))} in its config.")
    length, rate = config.get("in_chan", _DEFAULT_LENGTH), config.get("sample_rate", 44100)
    bidirectional, power = config.get("bidirectional", True), config.get("spec_power", 1)
    require(
        "x_umx",
        (
            (type(length) is int and 2 <= length <= 1 << 20, f"in_chan is {length!r}, expected a whole number"),
            (config.get("window_length", length) == length, "window_length is not in_chan"),
            (isinstance(bidirectional, bool), f"bidirectional is {bidirectional!r}, expected true or false"),
            (power == 1, f"spec_power is {power!r}; only magnitudes, 1, are supported"),
        ),
    )
    bins = length // 2 + 1
    return {
        "nfft": length,
        "nhop": config.get("n_hop", 1024),
        "nb_output_bins": bins,
        "max_bin": config.get("max_bin") or bins,
        "unidirectional": not bidirectional,
        "sample_rate": int(rate) if isinstance(rate, float) and rate.is_integer() else rate,
        **{name: config[name] for name in _SHARED if name in config},
    }


def _place(name: str) -> tuple[str, str]:
    """Of a published tensor: whose it is, and what it is called in a file of Open-Unmix."""
    kind, _, rest = name.partition(".")
    if kind == "mean_scale":  # input_mean_vocals
        first, second, source = (*rest.split("_", 2), "", "")[:3]
        return source, f"{first}_{second}"
    source, _, layer = rest.partition(".")
    for published, ours in _LAYERS.get(kind, ()):
        if layer.startswith(published):
            return source, ours + layer.removeprefix(published)
    return source, name


_LAYERS = {
    "layer_enc": (("enc.0.", "fc1."), ("enc.1.", "bn1.")),
    "layer_lstm": (("", "lstm."),),
    "layer_dec": (("dec.0.", "fc2."), ("dec.1.", "bn2."), ("dec.3.", "fc3."), ("dec.4.", "bn3.")),
}
