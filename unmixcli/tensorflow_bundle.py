"""TensorFlow's checkpoints (V2, "tensor bundle") to tensors, without TensorFlow.

A checkpoint PREFIX is the file PREFIX.index and data files PREFIX.data-00000-of-00001 … The index is a table as LevelDB
writes them ("doc/table_format.md" there): blocks of sorted keys that leave out what they share with the key before,
and at the end a block that says where the blocks are. Its values are the messages of `tensor_bundle.proto`: under the
empty key a header, under each tensor's name its type, shape, and where its bytes lie in which data file. Checked
against files that TensorFlow 2.15 wrote.

Every position and size is checked before it is used; no tensor costs more memory than the data files have bytes. What
TensorFlow does not write by itself is refused: compressed blocks, big-endian files, tensors in slices.
"""

from __future__ import annotations

import gzip
import math
import mmap
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from unmixcli.crc32c import crc32c, masked
from unmixcli.errors import CheckpointError
from unmixcli.wire import Message, read_varint

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")  # the last bytes of an index
_FOOTER = 48  # bytes: two block handles, padding, the magic number
_TRAILER = 5  # bytes behind a block: compression, masked checksum
_STRING = 7
_TYPES = {
    1: torch.float32, 2: torch.float64, 3: torch.int32, 4: torch.uint8, 5: torch.int16, 6: torch.int8, 9: torch.int64,
    10: torch.bool, 14: torch.bfloat16, 19: torch.float16,
}  # fmt: skip
_DATA_FILE = re.compile(r"(.*)\.data-(\d{5})-of-(\d{5})\Z", re.DOTALL)

_MAX_INDEX = 1 << 25  # bytes of an index; 371 tensors take 13 000
_MAX_KEY = 1000
_MAX_ENTRIES = 100_000
_MAX_SHARDS = 1000
_MAX_MEMBERS = 1000  # of an archive
# Weights hardly shrink when they are compressed; the graph beside them does, tenfold.
_MAX_GROWTH, _MAX_EXTRA = 16, 1 << 24

Buffer = memoryview


def is_index(stream: IO[bytes]) -> bool:
    """Whether an open file ends as the index of a checkpoint does."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - len(MAGIC)))
    return stream.read(len(MAGIC)) == MAGIC


def read_beside(index: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by its index; the data files stand beside it.

    Raises:
        CheckpointError: damaged, or a data file is missing.
        OSError: a file can't be read.
    """
    prefix = index.name.removesuffix(".index")
    if index.stat().st_size > _MAX_INDEX:
        raise CheckpointError(f"its index has more than {_MAX_INDEX} bytes.")
    with ExitStack() as stack:
        shards: dict[tuple[int, int], Buffer] = {}
        for path in index.parent.iterdir():
            match = _DATA_FILE.match(path.name)
            if match is None or match[1] != prefix or not path.is_file():
                continue
            stream = stack.enter_context(path.open("rb"))
            content = Buffer(b"")
            if path.stat().st_size:
                mapped = stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
                content = stack.enter_context(Buffer(mapped))
            shards[int(match[2]), int(match[3])] = content
        return read_bundle(Buffer(index.read_bytes()), shards)


def find_index(folder: Path) -> Path:
    """The only index in a folder.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    found = sorted(path for path in folder.iterdir() if path.name.endswith(".index"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise CheckpointError(
            f"a folder with one TensorFlow checkpoint (a file .index) was expected; there: {names}.",
            hint="name the .index file." if found else "",
        )
    return found[0]


# --- archives


def read_archive(stream: IO[bytes]) -> dict[str, Tensor]:
    """The tensors of the one checkpoint in a .tar.gz, read from front to back; nothing is unpacked to disk.

    Raises:
        CheckpointError: damaged, no checkpoint or several in it, or it grows as weights do not when unpacked.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    indices: dict[str, Buffer] = {}
    shards: dict[str, dict[tuple[int, int], Buffer]] = {}
    try:
        with (
            gzip.GzipFile(fileobj=stream, mode="rb") as plain,
            # front to back: `read` is all that tarfile needs
            tarfile.open(fileobj=_Limited(plain, _MAX_GROWTH * size + _MAX_EXTRA), mode="r|") as archive,  # type: ignore[call-overload]
        ):
            for number, member in enumerate(archive):
                if number >= _MAX_MEMBERS:
                    raise CheckpointError(f"the archive has more than {_MAX_MEMBERS} members.")
                match = _DATA_FILE.match(member.name)
                if match is None and not member.name.endswith(".index"):
                    continue
                content = _content(archive, member)
                if match is None:
                    indices[member.name.removesuffix(".index")] = content
                else:
                    shards.setdefault(match[1], {})[int(match[2]), int(match[3])] = content
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the archive is damaged: {error}.") from error
    if len(indices) != 1:
        names = ", ".join(sorted(indices)[:5])[:200] or "none"
        raise CheckpointError(
            f"an archive with one TensorFlow checkpoint (a file .index) was expected; there: {names}."
        )
    prefix, index = indices.popitem()
    return read_bundle(index, shards.get(prefix, {}))


class _Limited:
    """A stream that ends in an error behind `limit` bytes: what bombs unpack to."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, size: int) -> bytes:
        # tarfile asks for small pieces, so no more than the limit is ever held
        data = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise CheckpointError(
                f"the archive unpacks to more than {_MAX_GROWTH} times its size, which weights don't: it is refused."
            )
        return data


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Buffer:
    """The bytes of a plain member."""
    # links and sparse files (a hole costs nothing in the archive) are no way to hold weights
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise CheckpointError(f"the member {member.name[:100]!r} of the archive is no plain file.")
    source = archive.extractfile(member)
    content = bytearray()
    while source is not None and (piece := source.read(1 << 20)):
        content += piece
    if len(content) != member.size:
        raise CheckpointError(f"the archive is cut off inside {member.name[:100]!r}.")
    return Buffer(content)


# --- a checkpoint


def read_bundle(index: Buffer, shards: Mapping[tuple[int, int], Buffer]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, under TensorFlow's names; texts among them (a Keras graph) are left out.

    Args:
        index: the file .index.
        shards: (number, count) -> the file .data-NUMBER-of-COUNT.

    Raises:
        CheckpointError: anything that does not fit together.
    """
    entries = _table(index)
    first = next(entries, None)
    if first is None or first[0] != b"":
        raise CheckpointError("the index of the checkpoint has no header.")
    header = Message(first[1], "header of the checkpoint")
    count = header.integer(1)
    if header.unsigned(2) != 0:
        raise CheckpointError("its numbers are big-endian, expected little-endian.")
    if not 1 <= count <= _MAX_SHARDS:
        raise CheckpointError(f"the checkpoint has {count} data files, expected 1 to {_MAX_SHARDS}.")
    total = sum(len(shards[key]) for key in shards if key[1] == count)
    tensors: dict[str, Tensor] = {}
    for key, value in entries:
        name = key.decode("utf-8", "replace")
        entry = Message(value, f"entry {name[:100]!r}")
        if entry.unsigned(1) == _STRING:
            continue
        if name in tensors or len(tensors) >= _MAX_ENTRIES:
            raise CheckpointError(f"the checkpoint has more than {_MAX_ENTRIES} tensors, or two named {name[:100]!r}.")
        tensor = _tensor(name[:100], entry, shards, count, total)
        total -= tensor.nbytes  # tensors lie beside each other: together they are never more than the files
        tensors[name] = tensor
    if not tensors:
        raise CheckpointError("the checkpoint has no tensors.")
    return tensors


def _tensor(name: str, entry: Message, shards: Mapping[tuple[int, int], Buffer], count: int, left: int) -> Tensor:
    """The tensor of an entry; `left` is the most bytes it may have."""
    if entry.unsigned(1) not in _TYPES:
        raise CheckpointError(f"the tensor {name!r} has the unknown type {entry.unsigned(1)}.")
    if 7 in entry:
        raise CheckpointError(f"the tensor {name!r} is stored in slices, which is not supported.")
    dtype = _TYPES[entry.unsigned(1)]
    shape = [dimension.integer(1) for dimension in entry.message(2, "shape").messages(2, "dimension")]
    if len(shape) > 16 or min(shape, default=1) < 0:
        raise CheckpointError(f"the tensor {name!r} has the impossible shape {shape[:16]}.")
    shard, start, size = entry.integer(3), entry.integer(4), entry.integer(5)
    if size != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"the tensor {name!r} of shape {shape} has {size} bytes.")
    data = shards.get((shard, count))
    if data is None:
        raise CheckpointError(
            f"the data file .data-{shard:05d}-of-{count:05d} is missing.", hint="keep it beside the .index file."
        )
    if start < 0 or start + size > len(data) or size > left:
        raise CheckpointError(f"the tensor {name!r} lies outside its data file: it is cut off or damaged.")
    values = bytearray(data[start : start + size])
    if masked(crc32c(values)) != entry.fixed32(6):
        raise CheckpointError(f"the tensor {name!r} is damaged: its checksum is wrong.")
    if not values:
        return torch.empty(shape, dtype=dtype)
    if dtype is torch.bool:  # a byte other than 0 and 1 would not be a valid bool
        return (torch.frombuffer(values, dtype=torch.uint8) != 0).reshape(shape)
    return torch.frombuffer(values, dtype=dtype).reshape(shape)


# --- the table


def _table(data: Buffer) -> Iterator[tuple[bytes, Buffer]]:
    """Keys and values in the order of the file, which is that of the keys."""
    if len(data) < _FOOTER or len(data) > _MAX_INDEX or bytes(data[-len(MAGIC) :]) != MAGIC:
        raise CheckpointError("it is not the index of a TensorFlow checkpoint.")
    footer = data[-_FOOTER:]
    _, position = _handle(footer, 0)  # of a block about the table, which is empty
    place, _ = _handle(footer, position)
    end, previous = 0, None
    for _, value in _entries(_block(data, *place)):
        (start, size), _ = _handle(value, 0)
        if start < end:  # blocks stand one behind the other: none is read twice
            raise CheckpointError("blocks of the index overlap.")
        end = start + size + _TRAILER
        for key, entry in _entries(_block(data, start, size)):
            if previous is not None and key <= previous:
                raise CheckpointError("the keys of the index are not in order.")
            previous = key
            yield key, entry


def _handle(data: Buffer, position: int) -> tuple[tuple[int, int], int]:
    """Start and size of a block, and the position behind them."""
    start, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (start, size), position


def _block(data: Buffer, start: int, size: int) -> Buffer:
    """The entries of a block, without its list of places to start reading from."""
    stop = start + size
    if stop + _TRAILER > len(data) - _FOOTER or size < 4:
        raise CheckpointError("a block lies outside the index: it is cut off or damaged.")
    if data[stop] != 0:
        raise CheckpointError(
            f"a block of the index is compressed (type {data[stop]}), which is not supported.",
            hint="TensorFlow's own Saver writes it uncompressed.",
        )
    if masked(crc32c(data[start : stop + 1])) != int.from_bytes(data[stop + 1 : stop + _TRAILER], "little"):
        raise CheckpointError("a block of the index is damaged: its checksum is wrong.")
    restarts = int.from_bytes(data[stop - 4 : stop], "little")
    if 4 * restarts + 4 > size:
        raise CheckpointError("a block of the index is damaged.")
    return data[start : stop - 4 * restarts - 4]


def _entries(block: Buffer) -> Iterator[tuple[bytes, Buffer]]:
    position, key = 0, b""
    while position < len(block):
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or unshared + length > len(block) - position or shared + unshared > _MAX_KEY:
            raise CheckpointError("an entry of the index is damaged.")
        key = key[:shared] + bytes(block[position : position + unshared])
        position += unshared
        yield key, block[position : position + length]
        position += length
