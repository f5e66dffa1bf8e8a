"""The signal path that BS-RoFormer and Mel-Band RoFormer share: spectrogram, bands, masks, and what their configs say.

Published protocol: segments of `chunk_size` samples, a new one every `chunk_size / num_overlap`; with `normalize` the
track is normalised by its mono mix. Our cross-fade is the triangle of `segment.py`.

Legend: s stem, c channel, f band, t frame, b bin, d feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.roformer import BandSplit, MaskEstimator, RMSNorm, Transformer, convert_state
from unmixcli.models.settings import read_settings, require, without_memory
from unmixcli.models.spectrogram import centre_pad

Band = tuple[int, int]  # first bin, bin after the last

_MAX_SEGMENT = 2**26  # samples; 25 minutes: anything more is a mistake in a config
_DEFAULTS: dict[str, Any] = {
    "dim": 0,  # must be given
    "depth": 0,
    "stereo": False,
    "num_stems": 0,  # as many as there are outputs
    "time_transformer_depth": 2,
    "freq_transformer_depth": 2,
    "linear_transformer_depth": 0,
    "dim_head": 64,
    "heads": 8,
    "mlp_expansion_factor": 4,
    "skip_connection": False,
    "norm_output": False,
    "zero_dc": False,
    "sample_rate": 44100,
    "stft_n_fft": 2048,
    "stft_hop_length": 512,
    "stft_win_length": 2048,
    "stft_normalized": False,
    "chunk_size": 352800,
    "num_overlap": 2.0,
    "normalize": False,
}
# What matters to training only, or is said a second time in a published yaml's `audio` section.
IGNORED = frozenset({
    "attn_dropout", "ff_dropout", "flash_attn", "sage_attention", "use_torch_checkpoint", "match_input_audio_length",
    "dim_freqs_in", "stft_window_fn", "multi_stft_resolution_loss_weight", "multi_stft_resolutions_window_sizes",
    "multi_stft_hop_size", "multi_stft_normalized", "multi_stft_window_fn", "batch_size", "dim_f", "dim_t", "n_fft",
    "hop_length", "num_channels", "min_mean_abs",
})  # fmt: skip


class BandRoformer(SeparationModel):
    """A spectrogram cut into bands, transformers over time and over bands in turn, and masks for the spectrogram.

    Subclasses say which bins a band has (bands may share bins: their masks are averaged) and how deep masks are.
    """

    architecture: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]
    final_norm_instead: ClassVar[bool]  # one norm after the last layer
    cpu_workers = True
    band_split: BandSplit
    layers: nn.ModuleList
    mask_estimators: nn.ModuleList
    final_norm: RMSNorm | None

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        self.values = values = self.read(config)
        outputs = self.outputs(config, stems)
        self.stems = tuple(stems)
        self._wanted = [outputs.index(stem) for stem in stems]
        self.covers_mixture = 1 < len(outputs) == len(stems)
        self.sample_rate, self.channels = values["sample_rate"], 1 + values["stereo"]
        self.segment_length = values["chunk_size"]
        self.overlap = 1 - 1 / values["num_overlap"]
        self.normalization = "track" if values["normalize"] else "none"
        self.bands = self.band_edges(config)
        for name, part in without_memory(lambda: _Parts(self, len(outputs))).named_children():
            setattr(self, name, part)
        if not self.final_norm_instead:
            self.final_norm = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> BandRoformer:
        """See `SeparationModel`. Keys: those of a published yaml's `model` section under their names, and
        `chunk_size`, `num_overlap`, `normalize`, `instruments`, `target_instrument`; what training alone needs
        (`IGNORED`) may be there."""
        return cls(config, stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """See `SeparationModel`."""
        return convert_state(super().convert_state(config, states))

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, checked, with the published defaults.

        Raises:
            CheckpointError: an unknown key, or a value that can't be used.
        """
        elsewhere = ("freqs_per_bands", "instruments", "target_instrument")
        plain = {name: value for name, value in config.items() if name not in elsewhere}
        if plain.get("linear_transformer_depth", 0) is None:
            del plain["linear_transformer_depth"]
        if "freqs_per_bands" in config and "num_bands" in cls.defaults:
            raise CheckpointError(f"{cls.architecture} has no freqs_per_bands in its config.")
        values = read_settings(cls.architecture, plain, {**_DEFAULTS, **cls.defaults}, only={}, ignored=IGNORED)
        n_fft, hop, window = values["stft_n_fft"], values["stft_hop_length"], values["stft_win_length"]
        checks = [
            (1 <= values[name] <= most, f"{name} is {values[name]}, expected 1 to {most}")
            for name, most in (
                ("dim", 8192), ("depth", 256), ("heads", 256), ("dim_head", 1024), ("mask_estimator_depth", 16),
                ("mlp_expansion_factor", 64), ("num_overlap", 50), ("chunk_size", _MAX_SEGMENT),
            )
        ]  # fmt: skip
        checks += [
            (0 <= values[name] <= 64, f"{name} is {values[name]}, expected 0 to 64")
            for name in ("time_transformer_depth", "freq_transformer_depth", "linear_transformer_depth")
        ]
        checks += [
            (values["dim_head"] % 2 == 0, f"dim_head is {values['dim_head']}, expected an even number"),
            (values["num_stems"] <= 256, f"num_stems is {values['num_stems']}, expected at most 256"),
            (values["sample_rate"] >= 1000, f"sample_rate is {values['sample_rate']}, expected at least 1000"),
            (16 <= n_fft <= 2**16 and n_fft % 2 == 0, f"stft_n_fft is {n_fft}, expected an even number, 16 to 65536"),
            (1 < window <= n_fft, f"stft_win_length is {window}, expected 2 to stft_n_fft, {n_fft}"),
            (1 <= hop <= window // 2, f"stft_hop_length is {hop}, expected 1 to half of stft_win_length, {window}"),
        ]
        require(cls.architecture, checks)
        return values

    @classmethod
    def outputs(cls, config: Mapping[str, Any], stems: Sequence[str]) -> tuple[str, ...]:
        """The outputs of the network in its order: `target_instrument`, or `instruments`, or else the stems asked.

        Raises:
            CheckpointError: another number than `num_stems`, or a stem that isn't among them.
        """
        target, names = config.get("target_instrument"), config.get("instruments") or list(stems)
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in (*names, target or "")):
            raise CheckpointError(f"{cls.architecture}'s instruments are {names!r}, expected a list of names.")
        outputs = tuple(name.lower() for name in ([target] if target else names))
        count = config.get("num_stems") or len(outputs)
        if count != len(outputs):
            raise CheckpointError(
                f"{cls.architecture}'s num_stems is {count}, but its outputs are {', '.join(outputs)}.",
                hint="a network with one output says which in target_instrument.",
            )
        if missing := [stem for stem in stems if stem not in outputs]:
            raise CheckpointError(f"these weights have no stem {', '.join(missing)}; they give {', '.join(outputs)}.")
        return outputs

    def band_edges(self, config: Mapping[str, Any]) -> tuple[Band, ...]:
        """The bins of every band; together all bins.

        Raises:
            CheckpointError: they are not.
        """
        raise TypeError(f"{type(self).__name__} does not say what its bands are")

    def mask_layers(self) -> int:
        """Linear layers of a mask."""
        raise TypeError(f"{type(self).__name__} does not say how deep its masks are")

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        return torch.stack([self._separate(item) for item in mixture])

    def _separate(self, mixture: Tensor) -> Tensor:
        """[c, T] -> [s, c, T]."""
        padded = centre_pad(mixture, self.values["stft_n_fft"])
        transform = self._transform(mixture)
        spectra = torch.stft(padded, **transform, center=False, return_complex=True)
        spectra = spectra.permute(2, 1, 0).contiguous()  # [t, b, c]
        numbers = torch.view_as_real(spectra)
        x = self.band_split([numbers[:, first:end].flatten(1) for first, end in self.bands])
        self._edit(x)
        masked = self._masked(x, spectra)
        del x, spectra, numbers
        frames = masked.permute(0, 3, 2, 1).flatten(0, 1)  # [s c, b, t]
        length = max(mixture.shape[-1], padded.shape[-1] - 2 * (self.values["stft_n_fft"] // 2))
        signal = torch.istft(frames, **transform, center=True, length=length)
        return signal.unflatten(0, (len(self.stems), -1))[..., : mixture.shape[-1]]

    def _transform(self, like: Tensor) -> dict[str, Any]:
        return {
            "n_fft": self.values["stft_n_fft"],
            "hop_length": self.values["stft_hop_length"],
            "win_length": self.values["stft_win_length"],
            "window": torch.hann_window(self.values["stft_win_length"], device=like.device),
            "normalized": self.values["stft_normalized"],
        }

    def _edit(self, x: Tensor) -> None:
        """All layers on the features [f, t, d], in place."""
        earlier: Tensor | None = None  # the sum of what the layers before gave
        for number, layer in enumerate(cast("list[nn.ModuleList]", list(self.layers))):
            *linear, over_time, over_bands = cast("list[Transformer]", list(layer))
            if linear:
                linear[0].edit(x)
            if earlier is not None:
                x += earlier
            over_time.edit(x)
            over_bands.edit(x.transpose(0, 1))
            if self.values["skip_connection"] and number < len(self.layers) - 1:
                earlier = x.clone() if earlier is None else earlier.add_(x)

    def _masked(self, x: Tensor, spectra: Tensor) -> Tensor:
        """Features [f, t, d] and the mixture's spectra [t, b, c] -> those of the stems [s, t, b, c]."""
        masked = spectra.new_zeros(len(self.stems), *spectra.shape)
        covered = torch.zeros(spectra.shape[1], device=x.device)
        estimators = cast("list[MaskEstimator]", list(self.mask_estimators))
        for number, (first, end) in enumerate(self.bands):
            covered[first:end] += 1
            features = x[number] if self.final_norm is None else self.final_norm(x[number])
            for stem, output in zip(masked, self._wanted, strict=True):
                mask = estimators[output].band(number, features).float()
                stem[:, first:end] += torch.view_as_complex(mask.unflatten(-1, (end - first, -1, 2)))
        masked *= spectra / covered[:, None]
        if self.values["zero_dc"]:
            masked[:, :, 0] = 0
        return masked


class _Parts(nn.Module):
    """The network under its published names."""

    def __init__(self, model: BandRoformer, outputs: int) -> None:
        super().__init__()
        values = model.values
        width = values["dim"]
        sizes = [2 * model.channels * (end - first) for first, end in model.bands]
        hidden = width * values["mlp_expansion_factor"]
        depths = [values[f"{kind}_transformer_depth"] for kind in ("linear", "time", "freq")]

        def transformer(depth: int, linear: bool) -> Transformer:
            return Transformer(
                width,
                depth=depth,
                heads=values["heads"],
                head_width=values["dim_head"],
                norm_output=values["norm_output"],
                linear_attention=linear,
            )

        self.band_split = BandSplit(width, sizes)
        self.layers = nn.ModuleList(
            nn.ModuleList(transformer(depth, kind == 0) for kind, depth in enumerate(depths) if depth or kind)
            for _ in range(values["depth"])
        )
        if model.final_norm_instead:
            self.final_norm = RMSNorm(width)
        self.mask_estimators = nn.ModuleList(
            MaskEstimator(width, sizes, layers=model.mask_layers(), hidden=hidden) for _ in range(outputs)
        )
