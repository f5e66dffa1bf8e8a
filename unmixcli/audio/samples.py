"""Float samples to the types files store, without dither.

No dither is added: what was 16- or 24-bit and is unchanged comes out bit for bit, and stems still sum. Rounding is to
the nearest; what lies beyond full scale is cut there, and counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmixcli.errors import OutputError

Samples = NDArray[np.float32]

SAMPLE_TYPES = ("u8", "s8", "s16", "s24", "s32", "f32", "f64")


def quantize(block: Samples, bits: int) -> tuple[NDArray[np.int32], int]:
    """[C, T] to integers of `bits` bits and how many samples lay beyond ±1 (those are clipped).

    x becomes round(x · 2^(bits-1)), the inverse of what decoding does; +1.0 itself is one step above the largest
    integer and becomes that.
    """
    full = 2.0 ** (bits - 1)
    # A float32 holds 24 bits, and scaling by a power of two is exact; only 32-bit needs float64 to clip correctly.
    scaled = block.astype(np.float64 if bits > 24 else np.float32) * full
    clipped = int(np.count_nonzero(np.abs(scaled) > full))
    np.rint(scaled, out=scaled)
    np.clip(scaled, -full, full - 1, out=scaled)
    return scaled.astype(np.int32), clipped


def interleave(block: NDArray[Any]) -> NDArray[Any]:
    """[C, T] to contiguous [T, C]."""
    return np.ascontiguousarray(block.T)


def refuse_not_finite(path: str, block: Samples) -> None:
    """Raise OutputError where a block holds NaN or infinity: no file format should carry it."""
    if not np.isfinite(block).all():
        raise OutputError(f"{path}: the audio to write holds NaN or infinite values, expected finite samples.")
