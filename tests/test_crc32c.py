"""CRC-32C against its definition and the values of RFC 3720."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow_writer import slow_crc32c

from unmixcli.crc32c import crc32c, masked


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_published_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [1, 3, 16384, 16385, 16388, 20011, 70001])
def test_as_the_definition(length: int, rng: np.random.Generator) -> None:
    data = rng.bytes(length)
    assert crc32c(data) == slow_crc32c(data)
    assert crc32c(memoryview(data)) == crc32c(bytearray(data))


def test_the_mask_is_leveldbs() -> None:
    # crc32c_test.cc: a mask that can be undone, and is not the value itself
    crc = crc32c(b"foo")
    turned = (masked(crc) - 0xA282EAD8) & 0xFFFFFFFF
    assert (turned >> 17 | turned << 15) & 0xFFFFFFFF == crc
    assert masked(crc) != crc
