"""Protocol buffers without a schema: the numbered fields of a message, as they stand in the bytes.

Written from the public description of the encoding (protobuf.dev, "Encoding"). ONNX files and the index of TensorFlow
checkpoints are such messages. A damaged or hostile message gives a `CheckpointError`: nothing is allocated that the
bytes don't hold, values are views into them, and a message inside a message is read only when it is asked for, so the
depth is up to the caller. Groups (wire types 3 and 4, out of use since 2008) are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

from unmixcli.errors import CheckpointError

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Value: TypeAlias = "int | memoryview"

VARINT = 0
FIXED64 = 1
BYTES = 2
FIXED32 = 5
_KINDS = {VARINT: "varint", FIXED64: "fixed64", BYTES: "bytes", FIXED32: "fixed32"}
_WIDTHS = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT = 10  # bytes; 64 bits
_MAX_FIELDS = 200_000  # of one message: what a hostile one makes us hold is some 60 MiB
_MAX_NUMBER = 2**29 - 1


def read_varint(data: Buffer, position: int = 0) -> tuple[int, int]:
    """An unsigned number of up to 64 bits.

    Args:
        data: the bytes.
        position: where it begins.

    Returns:
        The number, and the position behind it.

    Raises:
        CheckpointError: the bytes end inside it, or it is longer than 64 bits.
    """
    value = 0
    for length in range(_MAX_VARINT):
        if position + length >= len(data):
            raise CheckpointError(f"a number is cut off at byte {len(data)}.")
        byte = data[position + length]
        value |= (byte & 0x7F) << (7 * length)
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, position + length + 1
    raise CheckpointError(f"a number at byte {position} has more than 64 bits.")


def signed(value: int, bits: int = 64) -> int:
    """An unsigned number from `fields` as `int32`, `int64`, `sfixed32` or `sfixed64` mean it (two's complement).

    A negative `int32` is stored as a varint of 64 bits: that is `signed(value)` too.
    """
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def fields(data: Buffer) -> Iterator[tuple[int, int, Value]]:
    """The fields of a message, in the order of the bytes.

    Yields:
        (number, wire type, value). The value of VARINT, FIXED32 and FIXED64 is an unsigned `int`; of BYTES (texts,
        messages, packed lists) a view of its bytes.

    Raises:
        CheckpointError: the bytes are no message.
    """
    view = memoryview(data)
    position = 0
    for _ in range(_MAX_FIELDS):
        if position >= len(view):
            return
        start = position
        key, position = read_varint(view, position)
        number, kind = key >> 3, key & 7
        if kind not in _KINDS or not 1 <= number <= _MAX_NUMBER:
            raise CheckpointError(f"byte {start} begins no field (number {number}, wire type {kind}).")
        if kind == VARINT:
            value, position = read_varint(view, position)
            yield number, kind, value
            continue
        length = _WIDTHS.get(kind, 0)
        if kind == BYTES:
            length, position = read_varint(view, position)
        if length > len(view) - position:
            raise CheckpointError(
                f"field {number} at byte {start} has {length} bytes, only {len(view) - position} are left."
            )
        content = view[position : position + length]
        position += length
        yield number, kind, content if kind == BYTES else int.from_bytes(content, "little")
    if position < len(view):
        raise CheckpointError(f"a message has more than {_MAX_FIELDS} fields.")


class Message:
    """The fields of one message by number. A field that isn't there has the default its type has in protobuf.

    Args:
        data: the bytes of the message.
        what: name of the message in errors.

    Raises:
        CheckpointError: the bytes are no message. The methods: a field has another wire type than asked for.
    """

    def __init__(self, data: Buffer, what: str = "message") -> None:
        self.what = what
        self._fields: dict[int, list[tuple[int, Value]]] = {}
        try:
            for number, kind, value in fields(data):
                self._fields.setdefault(number, []).append((kind, value))
        except CheckpointError as error:
            raise CheckpointError(f"its {what} is damaged: {error}", hint=error.hint) from error

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def unsigned(self, number: int, default: int = 0) -> int:
        """A `uint32`, `uint64`, `bool` or enum; the last one if there are several."""
        values = self._of(number, VARINT)
        return values[-1][1] if values else default  # type: ignore[return-value]  # VARINT has an int

    def integer(self, number: int, default: int = 0) -> int:
        """An `int32` or `int64`; the last one if there are several."""
        return signed(self.unsigned(number)) if number in self._fields else default

    def fixed32(self, number: int, default: int = 0) -> int:
        """A `fixed32`, unsigned."""
        values = self._of(number, FIXED32)
        return values[-1][1] if values else default  # type: ignore[return-value]

    def float32(self, number: int, default: float = 0.0) -> float:
        """A `float`."""
        return float(struct.unpack("<f", struct.pack("<I", self.fixed32(number)))[0]) if number in self else default

    def views(self, number: int) -> list[memoryview]:
        """All values of a field of bytes (`repeated bytes`, `repeated string`, repeated messages)."""
        return [value for _, value in self._of(number, BYTES)]  # type: ignore[misc]  # BYTES has a view

    def view(self, number: int) -> memoryview:
        """A field of bytes; the last one if there are several, empty if there is none."""
        values = self.views(number)
        return values[-1] if values else memoryview(b"")

    def texts(self, number: int) -> list[str]:
        """All values of a `repeated string`; bytes that are no UTF-8 are replaced."""
        return [bytes(value).decode("utf-8", "replace") for value in self.views(number)]

    def text(self, number: int) -> str:
        """A `string`, empty if there is none."""
        return bytes(self.view(number)).decode("utf-8", "replace")

    def messages(self, number: int, what: str) -> list[Message]:
        """All messages of a field."""
        return [Message(value, what) for value in self.views(number)]

    def message(self, number: int, what: str) -> Message:
        """A message inside this one, the empty one if there is none."""
        return Message(self.view(number), what)

    def integers(self, number: int) -> list[int]:
        """A `repeated int32` or `repeated int64`, packed or not."""
        values: list[int] = []
        for kind, value in self._fields.get(number, ()):
            if isinstance(value, int):
                if kind != VARINT:
                    raise self._wrong(number, kind)
                values.append(signed(value))
                continue
            position = 0
            while position < len(value):
                item, position = read_varint(value, position)
                values.append(signed(item))
        return values

    def packed(self, number: int, width: int) -> bytes:
        """A `repeated` field of `width` bytes per item (4: float, fixed32; 8: double, fixed64), packed or not.

        Returns:
            The items one behind the other, little-endian.
        """
        kind_of_item = {4: FIXED32, 8: FIXED64}[width]
        parts: list[bytes | memoryview] = []
        for kind, value in self._fields.get(number, ()):
            if isinstance(value, int):
                if kind != kind_of_item:
                    raise self._wrong(number, kind)
                parts.append(value.to_bytes(width, "little"))
                continue
            if len(value) % width:
                raise CheckpointError(
                    f"field {number} of its {self.what} has {len(value)} bytes, expected a multiple of {width}."
                )
            parts.append(value)
        return b"".join(parts)

    def _of(self, number: int, kind: int) -> list[tuple[int, Value]]:
        values = self._fields.get(number, [])
        for found, _ in values:
            if found != kind:
                raise self._wrong(number, found)
        return values

    def _wrong(self, number: int, kind: int) -> CheckpointError:
        return CheckpointError(f"field {number} of its {self.what} has the unexpected wire type {_KINDS[kind]}.")
