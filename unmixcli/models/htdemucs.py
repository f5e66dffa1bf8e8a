"""Hybrid Transformer Demucs: the branches of Hybrid Demucs with a transformer across both between them.

"Hybrid Transformers for Music Source Separation" (Rouard, Massa & Défossez, ICASSP 2023, arXiv:2211.08553). Checked
against the public package `demucs`: htdemucs, htdemucs_ft and htdemucs_6s. Left out: training, sparse attention and
the other position encodings and norms, which no released checkpoint uses.

Published protocol (`demucs.apply`): the track normalised by its mono mix, segments of exactly 7.8 s with an overlap of
a quarter and triangular weights; a shorter last segment stands in the middle of its 7.8 s, with what is before it in
the track on its left and silence on its right.

Legend: b batch, c channel, f bin, t frame or sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.demucs_transformer import CrossTransformer, TransformerSettings
from unmixcli.models.hdemucs import ONLY, SHARED_DEFAULTS, SHARED_IGNORED, Hybrid
from unmixcli.models.onednn import Conv1d
from unmixcli.models.settings import require


class HTDemucs(Hybrid):
    """See the module."""

    architecture = "htdemucs"
    fixed_segment = True
    cpu_workers = True  # measured once: 1.25 to 1.57 times as fast as one segment with both threads
    edge_padding = "zero"
    from_zeros = False
    defaults: ClassVar[Mapping[str, Any]] = SHARED_DEFAULTS | {
        "depth": 4,
        "multi_freqs_depth": 3,
        "dconv_comp": 8.0,
        "bottom_channels": 0,
        "t_layers": 5,
        "t_heads": 8,
        "t_hidden_scale": 4.0,
        "t_norm_in": True,
        "t_norm_out": True,
        "t_max_period": 10000.0,
        "t_weight_pos_embed": 1.0,
        "segment": Fraction(10),
    }
    only: ClassVar[Mapping[str, Any]] = ONLY | {
        "use_train_segment": True,
        "t_emb": "sin",
        "t_norm_first": True,
        "t_norm_in_group": False,
        "t_group_norm": False,
        "t_layer_scale": True,
        "t_gelu": True,
        "t_sparse_self_attn": False,
        "t_sparse_cross_attn": False,
        "t_cross_first": False,
    }
    # what is random or fixed in training only, and settings of options that `only` excludes
    ignored = SHARED_IGNORED | {
        "t_dropout", "t_max_positions", "t_weight_decay", "t_lr", "t_sin_random_shift", "t_cape_mean_normalize",
        "t_cape_augment", "t_cape_glob_loc_scale", "t_mask_type", "t_mask_random_seed", "t_sparse_attn_window",
        "t_global_window", "t_sparsity", "t_auto_sparsity",
    }  # fmt: skip

    crosstransformer: CrossTransformer
    channel_upsampler: nn.Conv1d
    channel_upsampler_t: nn.Conv1d
    channel_downsampler: nn.Conv1d
    channel_downsampler_t: nn.Conv1d

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__(config, stems)
        values = self.values
        inner = int(values["channels"] * values["growth"] ** (values["depth"] - 1))
        width = values["bottom_channels"] or inner
        require(
            self.architecture,
            (
                (values["t_heads"] >= 1, f"t_heads is {values['t_heads']}, expected at least 1"),
                (width % max(1, values["t_heads"]) == 0, "t_heads does not divide the transformer's width"),
                (width % 4 == 0 and width > 4, f"width is {width}, expected a multiple of 4 from 8"),
                (1 <= values["t_layers"] <= 64, f"t_layers is {values['t_layers']}, expected 1 to 64"),
                (values["t_max_period"] > 1, f"t_max_period is {values['t_max_period']}, expected more than 1"),
                (values["nfft"] // 2 // values["stride"] ** values["depth"] > 1, "nfft is too small for its depth"),
            ),
        )
        self.adopt(lambda: _Middle(inner, width, values))

    def context(self, used: int) -> tuple[int, int]:
        """See `SeparationModel`: a shorter segment stands in the middle."""
        missing = self.segment_length - used
        return missing // 2, missing - missing // 2

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]. What is shorter than a segment is followed by silence."""
        length = mixture.shape[-1]
        padded = F.pad(mixture, (0, max(0, self.segment_length - length)))
        return super().forward(padded)[..., :length]

    def middle(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Hybrid`."""
        if not self.values["bottom_channels"]:
            return self.crosstransformer(x, y)
        bins = x.shape[2]
        x = self.channel_upsampler(x.flatten(2)).unflatten(2, (bins, -1))
        y = self.channel_upsampler_t(y)
        x, y = self.crosstransformer(x, y)
        return self.channel_downsampler(x.flatten(2)).unflatten(2, (bins, -1)), self.channel_downsampler_t(y)


class _Middle(nn.Module):
    """Layers between the branches' encoders and decoders."""

    def __init__(self, inner: int, width: int, values: Mapping[str, Any]) -> None:
        super().__init__()
        if values["bottom_channels"]:
            self.channel_upsampler = Conv1d(inner, width, 1)
            self.channel_downsampler = Conv1d(width, inner, 1)
            self.channel_upsampler_t = Conv1d(inner, width, 1)
            self.channel_downsampler_t = Conv1d(width, inner, 1)
        self.crosstransformer = CrossTransformer(
            width,
            TransformerSettings(
                layers=values["t_layers"],
                heads=values["t_heads"],
                hidden_scale=values["t_hidden_scale"],
                norm_in=values["t_norm_in"],
                norm_out=values["t_norm_out"],
                max_period=values["t_max_period"],
                position_weight=values["t_weight_pos_embed"],
            ),
        )
