"""BS-RoFormer: bands side by side, narrow at the bottom, and transformers over time and over bands.

"Music Source Separation with Band-Split RoPE Transformer" (Lu, Wang, Kong & Hung, ICASSP 2024, arXiv:2309.02612).
Checked against the public package `audio-separator` 0.47.1; `skip_connection` and `zero_dc`, which that package reads
and does not use, follow the code the checkpoints that have them were trained with (MSST).

The published `mask_estimator_depth` counts the linear layers of a mask (in Mel-Band RoFormer those before the last).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, ClassVar

from unmixcli.errors import CheckpointError
from unmixcli.models.band_roformer import Band, BandRoformer

# bins of each band, of 1025
_PUBLISHED = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


class BSRoformer(BandRoformer):
    """See the module."""

    architecture = "bs_roformer"
    defaults: ClassVar[Mapping[str, Any]] = {"mask_estimator_depth": 2}
    final_norm_instead = True

    def band_edges(self, config: Mapping[str, Any]) -> tuple[Band, ...]:
        """See `BandRoformer`."""
        widths = config.get("freqs_per_bands", _PUBLISHED)
        if not isinstance(widths, (list, tuple)) or not all(type(width) is int and width > 0 for width in widths):
            raise CheckpointError(f"bs_roformer's freqs_per_bands are {widths!r:.200}, expected numbers of bins.")
        bins = self.values["stft_n_fft"] // 2 + 1
        if sum(widths) != bins:
            raise CheckpointError(
                f"bs_roformer's freqs_per_bands are {sum(widths)} bins, expected {bins} as stft_n_fft says."
            )
        ends = list(accumulate(widths))
        return tuple(zip([0, *ends[:-1]], ends, strict=True))

    def mask_layers(self) -> int:
        """See `BandRoformer`."""
        depth: int = self.values["mask_estimator_depth"]
        return depth
