"""ONNX files as data: every way a tensor can be stored, what exporters do to weights, and damage."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from mdx_toys import TYPES, content, mdx_net_file, model, node, number, tensor, value_info

from unmixcli.cache import hash_file
from unmixcli.checkpoint import stored_checkpoint
from unmixcli.checkpoint_read import read_checkpoint
from unmixcli.errors import CheckpointError
from unmixcli.onnx_read import ONNX_FILE, describe, is_onnx, read_graph

IN = {"x": ["batch", 4]}
OUT = {"y": [1, 4]}


def small(*tensors: bytes, nodes: tuple[bytes, ...] = ()) -> bytes:
    return model(nodes, tensors, IN, OUT)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", list(TYPES))
def test_tensors_of_every_type(dtype: str, raw: bool) -> None:
    values = np.array([[0, 1, 2], [100, 1, 0]]).astype(dtype)
    if dtype.startswith("int"):
        values[0, 0] = -5
    found = read_graph(small(tensor("w", values, raw=raw))).tensors["w"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_a_tensor_without_sizes_is_one_value() -> None:
    assert read_graph(small(tensor("w", np.float32(3.5).reshape(())))).tensors["w"] == np.float32(3.5)


def test_nodes_and_attributes() -> None:
    written = node("Conv", ["x", "w", ""], ["y"], pads=[1, 0], group=2, alpha=0.5, mode="same", f=[0.5, 1.0], s=["a"])
    graph = read_graph(small(nodes=(written,)))
    assert graph.inputs == {"x": (None, 4)}
    assert graph.outputs == {"y": (1, 4)}
    (found,) = graph.nodes
    assert (found.operator, found.inputs, found.outputs) == ("Conv", ("x", "w", ""), ("y",))
    assert found.attributes == {"pads": [1, 0], "group": 2, "alpha": 0.5, "mode": "same", "f": [0.5, 1.0], "s": ["a"]}


def test_an_operator_of_another_domain_keeps_it() -> None:
    written = content(4, "Conv") + content(7, "com.example")
    assert read_graph(small(nodes=(written,))).nodes[0].operator == "com.example.Conv"


def test_weights_that_an_exporter_hid_are_found() -> None:
    weight = np.arange(6, dtype="float32").reshape(2, 3)
    nodes = (
        node("Constant", [], ["c"], value=weight),
        node("Identity", ["c"], ["i"]),
        node("Transpose", ["i"], ["t"], perm=[1, 0]),
        node("Transpose", ["w"], ["u"]),
        node("MatMul", ["x", "t"], ["y"]),
        node("Transpose", ["y"], ["z"], perm=[1, 0]),
    )
    graph = read_graph(small(tensor("w", weight), nodes=nodes))
    assert [found.operator for found in graph.nodes] == ["MatMul", "Transpose"]
    np.testing.assert_array_equal(graph.tensors["t"], weight.T)
    np.testing.assert_array_equal(graph.tensors["u"], weight.T)
    assert describe(graph) == {"inputs": {"x": [None, 4]}, "outputs": {"y": [1, 4]}, "layers": [["MatMul", [3, 2]]]}


def test_stored_tensors_that_are_listed_as_inputs_are_none() -> None:
    data = model([], [tensor("w", np.zeros(2, "float32"))], {"w": [2], **IN}, OUT)
    assert list(read_graph(data).inputs) == ["x"]


def test_tensors_are_views_of_the_file() -> None:
    data = bytearray(small(tensor("w", np.zeros(1000, "float32"))))
    found = read_graph(data).tensors["w"]
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no graph"),
        (number(1, 7) + content(2, "x"), "no graph"),
        (content(7, content(15, b"")), "sparse"),
        (content(7, content(5, number(1, 4) + number(2, 1) + content(9, b"1234"))), "has 1 values, expected"),
        (
            content(7, content(5, number(1, 2**62) + number(1, 2**62) + number(2, 1) + content(9, b"1234"))),
            "has 1 values",
        ),
        (content(7, content(5, number(1, -1) + number(2, 1))), "sizes"),
        (content(7, content(5, number(1, 1) * 9 + number(2, 1) + content(9, b"1234"))), "sizes"),
        (content(7, content(5, number(1, 1) + number(2, 1) + content(9, b"123"))), "3 bytes"),
        (content(7, content(5, number(2, 99))), "element type 99"),
        (content(7, content(5, number(2, 1) + number(14, 1))), "another file"),
        (content(7, content(5, number(2, 1) + content(13, b""))), "another file"),
        (content(7, content(1, b"") * 100_001), "nodes, at most"),
        (content(7, b"\xff"), "its graph is damaged"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_graph(data)


def test_a_cut_or_changed_file_gives_a_graph_or_a_clear_error() -> None:
    whole = mdx_net_file("folded")
    generator = random.Random(0)
    errors = 0
    for length in range(0, len(whole), len(whole) // 97):
        with pytest.raises(CheckpointError):
            read_graph(whole[:length])
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(20):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            describe(read_graph(data))
        except CheckpointError:
            errors += 1
    assert errors > 0


def test_it_is_told_by_its_first_bytes() -> None:
    assert is_onnx(mdx_net_file("folded")[:64])
    assert is_onnx(number(1, 3) + content(7, b"abc"))
    for other in (
        b"",
        b"\x08",
        b"\x08\x07",
        b"PK\x03\x04....",
        b"\x80\x02\x8a\x0a",
        b"<html>",
        b"\x08\x00\x00\x00\x00",
    ):
        assert not is_onnx(other)


def test_a_file_is_kept_whole_and_described(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(mdx_net_file("folded"))
    read = read_checkpoint(path)
    assert bytes(read.tensors[ONNX_FILE].numpy()) == path.read_bytes()
    assert read.settings["onnx"]["inputs"] == {"input": [None, 4, 64, 16]}
    assert read.settings["onnx"]["layers"][:2] == [["Conv", [6, 4, 1, 1]], ["Conv", [6, 6, 3, 3]]]
    for _ in range(2):  # the second time from the converted copy
        stored = stored_checkpoint(path, hash_file(path))
        assert bytes(stored.tensors[ONNX_FILE].numpy()) == path.read_bytes()
        assert stored.settings == read.settings


def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(mdx_net_file("folded")[:-1000])
    with pytest.raises(CheckpointError, match=r"network\.onnx.*damaged"):
        read_checkpoint(path)


def test_sizes_are_told_where_they_are_known() -> None:
    data = model([], [], {"x": [3, "time"]}, OUT)
    assert read_graph(data).inputs == {"x": (3, None)}
    assert value_info("x", [3])  # the writer above is what is compared with
