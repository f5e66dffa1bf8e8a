"""The reader of protocol buffers: known encodings, and bytes that are none."""

from __future__ import annotations

import random
import struct

import pytest

from unmixcli.errors import CheckpointError
from unmixcli.wire import BYTES, FIXED32, FIXED64, VARINT, Message, fields, read_varint, signed


def test_the_examples_of_the_public_description():
    # protobuf.dev/programming-guides/encoding: a = 150; b = "testing"; a message in field 3; d = 4, e packed
    assert list(fields(bytes.fromhex("089601"))) == [(1, VARINT, 150)]
    assert Message(bytes.fromhex("120774657374696e67")).text(2) == "testing"
    assert Message(bytes.fromhex("1a03089601")).message(3, "inner").integer(1) == 150
    assert Message(bytes.fromhex("3206038e029ea705")).integers(6) == [3, 270, 86942]
    assert Message(bytes.fromhex("2801280228 03".replace(" ", ""))).integers(5) == [1, 2, 3]


def test_numbers_of_every_width():
    minus_two = b"\x08" + b"\xfe" + b"\xff" * 8 + b"\x01"
    assert Message(minus_two).integer(1) == -2
    assert Message(minus_two).unsigned(1) == 2**64 - 2
    assert signed(2**32 - 1, 32) == -1
    assert list(fields(b"\x0d\x01\x02\x03\x04")) == [(1, FIXED32, 0x04030201)]
    assert list(fields(b"\x09" + bytes(range(1, 9)))) == [(1, FIXED64, 0x0807060504030201)]
    assert Message(b"\x0d" + struct.pack("<f", -1.5)).float32(1) == -1.5
    assert Message(b"\x0d\xff\xff\xff\xff").fixed32(1) == 2**32 - 1
    packed = b"\x0a\x08" + struct.pack("<2f", 1.0, 2.0) + b"\x0d" + struct.pack("<f", 3.0)
    assert struct.unpack("<3f", Message(packed).packed(1, 4)) == (1.0, 2.0, 3.0)


def test_what_is_missing_has_its_default_and_the_last_one_counts():
    empty = Message(b"")
    assert (empty.integer(1), empty.integer(1, 7), empty.text(2), empty.integers(3)) == (0, 7, "", [])
    assert (empty.fixed32(4), empty.float32(5), empty.packed(6, 8), empty.views(7), 8 in empty) == (
        0,
        0.0,
        b"",
        [],
        False,
    )
    assert Message(b"\x08\x01\x08\x02").integer(1) == 2
    assert Message(b"\x0a\x01a\x0a\x01b").texts(1) == ["a", "b"]


def test_bytes_are_views_and_not_copies():
    data = bytearray(b"\x0a\x04abcd")
    view = Message(data).view(1)
    data[2] = ord("X")
    assert bytes(view) == b"Xbcd"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "cut off"),
        (b"\x08\x96", "cut off"),
        (b"\x0a\x05abc", "has 5 bytes, only 3 are left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "only 0 are left"),
        (b"\x0d\x01\x02", "has 4 bytes, only 2"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x00\x00", "number 0"),
    ],
)
def test_damage_is_an_error(data, message):
    with pytest.raises(CheckpointError, match=f"its thing is damaged.*{message}"):
        Message(data, "thing")


def test_another_wire_type_than_asked_for_is_an_error():
    text = Message(b"\x0a\x01a", "thing")
    for ask in (text.unsigned, text.integer, text.fixed32, text.float32):
        with pytest.raises(CheckpointError, match="field 1 of its thing has the unexpected wire type bytes"):
            ask(1)
    number = Message(b"\x08\x01", "thing")
    for ask in (number.view, number.text, number.views, lambda n: number.packed(n, 4)):
        with pytest.raises(CheckpointError, match="wire type varint"):
            ask(1)
    with pytest.raises(CheckpointError, match="wire type fixed32"):
        Message(b"\x0d\x00\x00\x00\x00").integers(1)
    with pytest.raises(CheckpointError, match="3 bytes, expected a multiple of 4"):
        Message(b"\x0a\x03abc").packed(1, 4)


def test_too_many_fields_are_an_error():
    with pytest.raises(CheckpointError, match="more than 200000 fields"):
        Message(b"\x08\x00" * 200_001)


def test_random_bytes_give_a_message_or_a_clear_error():
    generator = random.Random(0)
    good = 0
    for _ in range(2000):
        data = generator.randbytes(generator.randrange(40))
        try:
            message = Message(data)
            for number in range(1, 20):
                message.integers(number)
            good += 1
        except CheckpointError:
            pass
    assert 0 < good < 2000


def test_varints_come_back_whatever_stands_around_them():
    for value in (0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1):
        rest, encoded = value, bytearray()
        while rest > 0x7F:
            encoded.append(rest & 0x7F | 0x80)
            rest >>= 7
        encoded.append(rest)
        assert read_varint(b"\xff" + bytes(encoded) + b"\xff", 1) == (value, 1 + len(encoded))


def test_an_inner_message_is_only_read_when_asked_for():
    inner = Message(b"\x0a\x01\xff", "outer")
    assert next(iter(fields(b"\x0a\x01\xff")))[1] == BYTES
    with pytest.raises(CheckpointError, match="its inner is damaged"):
        inner.message(1, "inner")
