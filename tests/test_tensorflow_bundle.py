"""TensorFlow's checkpoints: its own files, every type, several data files, archives, and files made to hurt."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_writer as writer
import torch
from tensorflow_writer import Bundle, archive, bundle, entry, header, masked_crc, number, table, text, varint

from unmixcli.checkpoint_read import read_state
from unmixcli.errors import CheckpointError
from unmixcli.tensorflow_bundle import read_bundle

RECORDED = Path(__file__).parent / "references" / "spleeter.npz"


@pytest.fixture
def tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    made = {f"layer_{n}/kernel": rng.standard_normal((3, n + 1, 2)).astype(np.float32) for n in range(30)}
    return {**made, "global_step": np.array(7, np.int64), "empty": np.zeros((0, 3), np.float32)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def read(checkpoint: Bundle) -> dict[str, torch.Tensor]:
    count = len(checkpoint.shards)
    shards = {(i, count): memoryview(shard) for i, shard in enumerate(checkpoint.shards)}
    return read_bundle(memoryview(checkpoint.index), shards)


def same(found: dict[str, torch.Tensor], tensors: dict[str, np.ndarray]) -> None:
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].numpy().dtype == value.dtype
        np.testing.assert_array_equal(found[name].numpy(), value)


def one(value: bytes, data: bytes = bytes(16), name: bytes = b"w") -> Bundle:
    """A checkpoint of one tensor whose entry says `value`."""
    return Bundle(table([(b"", header(1)), (name, value)]), [data])


def floats(**changes: object) -> bytes:
    values: dict[str, object] = {"size": 16, "crc": masked_crc(bytes(16)), **changes}
    shape = values.pop("shape", (4,))
    return entry(int(values.pop("dtype", 1)), shape, **values)  # type: ignore[call-overload,arg-type]


class TestWhole:
    def test_tensorflows_own_files(self) -> None:
        with np.load(RECORDED) as recorded:
            index, data = recorded["4stems/index"].tobytes(), recorded["4stems/data"].tobytes()
        found = read(Bundle(index, [data]))
        assert len(found) == 297  # as the published 4stems
        assert found["conv2d_27/kernel"].shape == (4, 4, 1, 2)
        assert found["global_step"].dtype == torch.int64
        assert sum(tensor.nbytes for tensor in found.values()) == len(data)

    @pytest.mark.parametrize("shards", [1, 3])
    @pytest.mark.parametrize("per_block", [1, 5, 100])
    def test_blocks_and_data_files(self, tensors: dict[str, np.ndarray], shards: int, per_block: int) -> None:
        same(read(bundle(tensors, shards=shards, per_block=per_block)), tensors)

    @pytest.mark.parametrize("name", [*writer.TYPES])
    def test_types(self, name: str) -> None:
        tensors = {"w": np.array([[0, 1, 1], [1, 0, 1]]).astype(name)}
        same(read(bundle(tensors)), tensors)

    def test_texts_are_left_out(self) -> None:
        entries = [(b"", header(1)), (b"graph", entry(7, (), size=3)), (b"w", floats())]
        assert list(read(Bundle(table(entries), [bytes(16)]))) == ["w"]

    def test_index_and_folder(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        folder = write(
            tmp_path / "4stems", {**bundle(tensors, shards=2).files(), "checkpoint": b"", "model.meta": b"x"}
        )
        same(read_state(folder), tensors)
        same(read_state(folder / "model.index"), tensors)

    @pytest.mark.parametrize("place", ["", "./", "2stems/"])
    def test_archive(self, tmp_path: Path, tensors: dict[str, np.ndarray], place: str) -> None:
        files = {"checkpoint": b"model", "model.meta": bytes(5000), **bundle(tensors, shards=2).files()}
        path = tmp_path / "2stems.tar.gz"
        path.write_bytes(archive(files, folder=place))
        same(read_state(path), tensors)

    def test_no_file_is_made(
        self, tmp_path: Path, tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.tgz"
        path.write_bytes(archive(bundle(tensors).files(), folder="../../"))
        monkeypatch.chdir(tmp_path)
        same(read_state(path), tensors)
        assert [found.name for found in tmp_path.rglob("*")] == ["a.tgz"]


class TestRefused:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (floats(offset=1), "lies outside"),
            (floats(shape=(5,)), "has 16 bytes"),
            (floats(shape=(2**40, 2**40)), "has 16 bytes"),
            (floats(shape=(2**62,), size=2**62), "has"),
            (floats(shape=(2**30,), size=2**32), "lies outside"),
            (floats(shape=(1,) * 17), "impossible shape"),
            (floats(offset=2**63), "lies outside"),
            (entry(1, (2**64 - 1, 4), size=16), "impossible shape"),
            (floats(dtype=99), "unknown type 99"),
            (floats(shard=1), "data file .data-00001-of-00001 is missing"),
            (floats(crc=b"oops"), "checksum"),
            (floats() + text(7, b""), "slices"),
            (b"\xff", "damaged"),
        ],
    )
    def test_entries(self, value: bytes, message: str) -> None:
        assert list(read(one(floats()))) == ["w"]
        with pytest.raises(CheckpointError, match=message):
            read(one(value))

    def test_one_piece_of_data_is_no_thousand_tensors(self) -> None:
        entries = [(b"", header(1)), *((b"%04d" % i, floats()) for i in range(1000))]
        with pytest.raises(CheckpointError, match="lies outside"):
            read(Bundle(table(entries), [bytes(16)]))

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            ([], "no header"),
            ([(b"w", floats())], "no header"),
            ([(b"", header(1))], "no tensors"),
            ([(b"", header(1, endianness=1)), (b"w", floats())], "big-endian"),
            ([(b"", header(0)), (b"w", floats())], "0 data files"),
            ([(b"", header(2**31)), (b"w", floats())], "data files"),
            ([(b"", header(1)), (b"w", floats()), (b"v", floats())], "not in order"),
            ([(b"", header(1)), (b"w", floats()), (b"w", floats())], "not in order"),
            ([(b"", header(1)), (b"w" * 2000, floats())], "entry of the index"),
        ],
    )
    def test_tables(self, entries: list[tuple[bytes, bytes]], message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            read(Bundle(table(entries), [bytes(16)]))

    def test_compressed_blocks(self, tmp_path: Path) -> None:
        index = table([(b"", header(1)), (b"w", floats())], kind=1)
        folder = write(tmp_path / "snappy", Bundle(index, [bytes(16)]).files())
        with pytest.raises(CheckpointError, match=r"^snappy: a block of the index is compressed \(type 1\)") as caught:
            read_state(folder)
        assert "uncompressed" in (caught.value.hint or "")

    def test_every_damaged_byte_of_an_index(self, tensors: dict[str, np.ndarray]) -> None:
        good = bundle({name: tensors[name] for name in sorted(tensors)[:4]}, per_block=2)
        whole = read(good)
        for position in range(len(good.index)):
            index = bytearray(good.index)
            index[position] ^= 0x41
            try:
                found = read(Bundle(bytes(index), good.shards))
            except CheckpointError:
                continue
            # the padding of the footer, or a block that nobody reads
            same(found, {name: tensor.numpy() for name, tensor in whole.items()})

    def test_every_cut(self, tensors: dict[str, np.ndarray]) -> None:
        good = bundle({name: tensors[name] for name in sorted(tensors)[-3:]})
        for length in range(len(good.index) - len(writer.MAGIC)):
            with pytest.raises(CheckpointError):
                read(Bundle(good.index[:length] + writer.MAGIC, good.shards))
        with pytest.raises(CheckpointError, match="cut off"):
            read(Bundle(good.index, [good.shards[0][:-1]]))

    def test_blocks_that_are_read_again(self) -> None:
        content = writer.block([(b"", header(1)), (b"w", floats())])
        handle = varint(0) + varint(len(content) - 5)
        places = writer.block([(b"a", handle), (b"b", handle)], interval=1)
        footer = handle + varint(len(content)) + varint(len(places) - 5)
        index = content + places + footer.ljust(40, b"\0") + writer.MAGIC
        with pytest.raises(CheckpointError, match="overlap"):
            read(Bundle(index, [bytes(16)]))

    def test_folder_without_one_checkpoint(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        with pytest.raises(CheckpointError, match="there: none"):
            read_state(write(tmp_path / "empty", {}))
        both = {**bundle(tensors).files("a"), **bundle(tensors).files("b")}
        with pytest.raises(CheckpointError, match=r"there: a\.index, b\.index") as caught:
            read_state(write(tmp_path / "both", both))
        assert "name the .index file" in (caught.value.hint or "")
        same(read_state(tmp_path / "both" / "b.index"), tensors)

    def test_index_without_its_data(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        path = tmp_path / "model.index"
        path.write_bytes(bundle(tensors).index)
        with pytest.raises(CheckpointError, match=r"data file \.data-00000-of-00001 is missing") as caught:
            read_state(path)
        assert "beside" in (caught.value.hint or "")


class TestArchives:
    def refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "bad.tar.gz"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            read_state(path)
        assert str(caught.value).startswith("bad.tar.gz: ")

    def test_bomb(self, tmp_path: Path) -> None:
        files = {"model.data-00000-of-00001": bytes(1 << 26)}
        assert len(archive(files)) < 1 << 17
        self.refused(tmp_path, archive(files), "unpacks to more than")
        # what is skipped counts as well
        self.refused(tmp_path, archive({"zeros": bytes(1 << 26)}), "unpacks to more than")

    def test_a_header_that_asks_for_memory(self, tmp_path: Path) -> None:
        member = tarfile.TarInfo("././@LongLink")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 35
        self.refused(tmp_path, gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 26)), "unpacks to more than")

    def test_headers_in_headers(self, tmp_path: Path) -> None:
        member = tarfile.TarInfo("././@LongLink")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 4
        piece = member.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")
        self.refused(tmp_path, gzip.compress(piece * 3000), "damaged")

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_links_and_devices(self, tmp_path: Path, kind: bytes) -> None:
        self.refused(tmp_path, archive({"model.index": b""}, kind=kind), "no plain file")

    def test_sparse_members(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as file:
            member = tarfile.TarInfo("model.index")
            member.pax_headers = {
                "GNU.sparse.map": "0,0",
                "GNU.sparse.size": str(1 << 40),
                "GNU.sparse.name": "model.index",
            }
            file.addfile(member)
        self.refused(tmp_path, buffer.getvalue(), "no plain file")

    def test_many_members(self, tmp_path: Path) -> None:
        self.refused(tmp_path, archive({f"{n}.txt": b"" for n in range(1100)}), "more than 1000 members")

    def test_which_checkpoint(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        self.refused(tmp_path, archive({"song.wav": b""}), "there: none")
        both = {**bundle(tensors).files("a"), **bundle(tensors).files("b")}
        self.refused(tmp_path, archive(both), r"there: \./a, \./b")
        self.refused(tmp_path, archive({"model.index": bundle(tensors).index}), "is missing")

    def test_damage(self, tmp_path: Path, tensors: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        good = archive(bundle(tensors).files())
        self.refused(tmp_path, good[: len(good) // 2], "damaged|cut off")
        self.refused(tmp_path, gzip.compress(rng.bytes(5000)), "damaged|there: none")
        self.refused(tmp_path, b"\x1f\x8b" + rng.bytes(100), "damaged")
        path = tmp_path / "changed.tar.gz"
        for position in rng.integers(0, len(good), 60):
            changed = bytearray(good)
            changed[position] ^= 0x10
            path.write_bytes(changed)
            try:
                same(read_state(path), tensors)  # a time or an owner was changed
            except CheckpointError:
                continue

    def test_duplicates_of_a_message_field(self) -> None:
        # the last one holds, as everywhere in protobuf
        assert list(read(one(number(1, 99) + floats()))) == ["w"]
