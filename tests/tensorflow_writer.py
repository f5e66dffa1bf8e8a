"""TensorFlow checkpoints made by hand, whole or broken, after the published format (`unmixcli/tensorflow_bundle.py`).

The reader is tested on these and on TensorFlow's own (`references/spleeter.npz`).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
TYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "float16": 19,
}


def slow_crc32c(data: bytes) -> int:
    """Bit by bit, as the definition has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> bytes:
    crc = slow_crc32c(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(index: int, value: int) -> bytes:
    return varint(index << 3) + varint(value)


def text(index: int, value: bytes) -> bytes:
    return varint(index << 3 | 2) + varint(len(value)) + value


def entry(
    dtype: int, shape: Sequence[int], *, shard: int = 0, offset: int = 0, size: int = 0, crc: bytes = bytes(4)
) -> bytes:
    """A BundleEntryProto."""
    dimensions = b"".join(text(2, number(1, length)) for length in shape)
    return (
        number(1, dtype) + text(2, dimensions) + number(3, shard) + number(4, offset) + number(5, size)
        + varint(6 << 3 | 5) + crc
    )  # fmt: skip


def header(shards: int, endianness: int = 0) -> bytes:
    """A BundleHeaderProto."""
    return number(1, shards) + number(2, endianness) + text(3, number(1, 1))


def block(entries: Sequence[tuple[bytes, bytes]], *, interval: int = 16, kind: int = 0) -> bytes:
    """Keys without what they share with the one before, the list of restarts, and the trailer."""
    out, restarts, previous = bytearray(), [], b""
    for position, (key, value) in enumerate(entries):
        if position % interval == 0:
            restarts.append(len(out))
            previous = b""
        shared = next(i for i in range(len(key) + 1) if key[: i + 1] != previous[: i + 1] or i == len(key))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    for place in [*(restarts or [0]), len(restarts or [0])]:
        out += place.to_bytes(4, "little")
    body = bytes(out) + bytes([kind])
    return body + masked_crc(body)


def table(entries: Sequence[tuple[bytes, bytes]], *, per_block: int = 40, kind: int = 0) -> bytes:
    """A whole table of sorted keys."""
    out, handles = bytearray(), []
    for start in range(0, max(1, len(entries)), per_block):
        part = entries[start : start + per_block]
        content = block(part, kind=kind)
        handles.append((part[-1][0] if part else b"", varint(len(out)) + varint(len(content) - 5)))
        out += content
    places = bytearray()
    for content in (block([]), block(handles, interval=1)):
        places += varint(len(out)) + varint(len(content) - 5)
        out += content
    return bytes(out + places.ljust(40, b"\0") + MAGIC)


@dataclass
class Bundle:
    """A checkpoint in memory."""

    index: bytes
    shards: list[bytes] = field(default_factory=list)

    def files(self, prefix: str = "model") -> dict[str, bytes]:
        """Its files by name."""
        count = len(self.shards)
        data = {f"{prefix}.data-{i:05d}-of-{count:05d}": shard for i, shard in enumerate(self.shards)}
        return {f"{prefix}.index": self.index, **data}


def bundle(tensors: Mapping[str, NDArray[np.generic]], *, shards: int = 1, per_block: int = 40) -> Bundle:
    """A checkpoint of some tensors, dealt out to the data files in turn."""
    data = [bytearray() for _ in range(shards)]
    entries = [(b"", header(shards))]
    for position, name in enumerate(sorted(tensors)):
        value = tensors[name]
        content = value.tobytes()
        shard = position % shards
        entries.append(
            (
                name.encode(),
                entry(
                    TYPES[str(value.dtype)], value.shape, shard=shard, offset=len(data[shard]), size=len(content),
                    crc=masked_crc(content),
                ),
            )
        )  # fmt: skip
        data[shard] += content
    return Bundle(table(entries, per_block=per_block), [bytes(part) for part in data])


def archive(files: Mapping[str, bytes], *, folder: str = "./", kind: bytes = tarfile.REGTYPE) -> bytes:
    """A .tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size, member.type = len(content), kind
            if kind == tarfile.SYMTYPE:
                member.size, member.linkname = 0, "/etc/passwd"
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
