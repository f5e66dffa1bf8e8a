"""Weights files that nobody should be able to hurt us with, made by hand."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
LEGACY_HEAD = LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)


def zip_checkpoint(path: Path, data: bytes, members: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A file of torch.save's zip format around a pickle."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in (members or {}).items():
            archive.writestr(name, content)
    return path


def legacy_checkpoint(path: Path, data: bytes, keys: tuple[str, ...] = (), storages: bytes = b"") -> Path:
    """A file of the older format around a pickle."""
    path.write_bytes(LEGACY_HEAD + data + pickle.dumps(list(keys), 2) + storages)
    return path


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def tensor_pickle(
    storage: str = "torch FloatStorage", numel: int = 4, offset: int = 0,
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), count: int = 1, view: Any = "absent",
) -> bytes:  # fmt: skip
    """The pickle of {"w0": tensor, ...}, with whatever numbers."""
    module, name = storage.split()

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(integer(value) for value in values) + b"t"

    out = io.BytesIO()
    out.write(b"\x80\x02}(")
    for index in range(count):
        out.write(text(f"w{index}"))
        out.write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        out.write(text("storage") + f"c{module}\n{name}\n".encode() + text("0") + text("cpu") + integer(numel))
        if view != "absent":
            out.write(pickle.dumps(view, 2)[2:-1])
        out.write(b"tQ" + integer(offset) + numbers(size) + numbers(stride) + b"\x89}tR")
    out.write(b"u.")
    return out.getvalue()


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """LONG1, for any size."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data
