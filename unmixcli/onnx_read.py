"""ONNX files as data: the nodes of the graph in order, and the tensors stored in it. Nothing is run.

Written from the public description of the format (onnx.ai, "ONNX IR specification", and the field numbers of
onnx.proto); the `onnx` package isn't needed. Read are the parts that a network of one graph has: what stands in
functions, sub-graphs, sparse tensors or other files is refused where it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmixcli.errors import CheckpointError
from unmixcli.wire import Buffer, Message

# Name under which a whole file stands among tensors, as bytes: its graph can't be told by tensors alone.
ONNX_FILE = "onnx_file"

_MAX_NODES = 100_000
_MAX_DIMENSIONS = 8
_MAX_LAYERS = 5000  # described to who asks for settings
_MAX_VERSION = 63  # of the format; 13 is the newest in 2025
_MODEL_FIELDS = frozenset({2, 3, 4, 5, 6, 7, 8, 14, 20, 25})

# Field numbers of TensorProto that hold values where there is no raw_data: by type, and whether they are integers.
_FLOAT, _UINT8, _INT8, _INT32, _INT64, _BOOL, _FLOAT16, _DOUBLE = 1, 2, 3, 6, 7, 9, 10, 11
_TYPES: dict[int, str] = {
    _FLOAT: "<f4",
    _UINT8: "u1",
    _INT8: "i1",
    _INT32: "<i4",
    _INT64: "<i8",
    _BOOL: "?",
    _FLOAT16: "<f2",
    _DOUBLE: "<f8",
}


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        operator: "Conv", "MatMul", ...; with its domain before it where that isn't ONNX's own.
        inputs: names of values; "" for an optional one that is left out.
        outputs: names of values.
        attributes: name -> int, float, text, list of them, or array.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """What an ONNX file holds.

    Attributes:
        nodes: in the order of the file, which is one they can be run in. Those that only hold a tensor or rename one
            (Constant, Identity of a stored tensor) are left out, and what they give is among the tensors.
        tensors: name -> stored values.
        inputs: name -> sizes, None where the file leaves one open; without the stored tensors.
        outputs: name -> sizes.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, NDArray[Any]]
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: Mapping[str, tuple[int | None, ...]]


def is_onnx(head: bytes) -> bool:
    """Whether a file can be an ONNX model, by its first bytes: field 1, a small version, then a field a model has."""
    return (
        len(head) > 3
        and head[0] == 0x08
        and 1 <= head[1] <= _MAX_VERSION
        and head[2] >> 3 in _MODEL_FIELDS
        and head[2] & 7 in (0, 2)
    )


def read_graph(data: Buffer) -> Graph:
    """The graph of an ONNX file.

    Args:
        data: the whole file.

    Returns:
        The graph; float tensors have the file's element type and are views of `data` where they can be.

    Raises:
        CheckpointError: it is damaged, or has something that is not read.
    """
    model = Message(data, "model")
    if 7 not in model:
        raise CheckpointError("it has no graph, so it is no ONNX model.")
    graph = model.message(7, "graph")
    if 15 in graph:
        raise CheckpointError("it has sparse tensors, which are not read.")
    if len(graph.views(1)) > _MAX_NODES:
        raise CheckpointError(f"its graph has {len(graph.views(1))} nodes, at most {_MAX_NODES} are read.")
    tensors: dict[str, NDArray[Any]] = {}
    for view in graph.views(5):
        stored = Message(view, "tensor")
        tensors[stored.text(8)] = _tensor(stored)
    nodes: list[Node] = []
    for view in graph.views(1):
        node = _node(Message(view, "node"))
        value = _stored_value(node, tensors)
        if value is None:
            nodes.append(node)
        else:
            tensors[node.outputs[0]] = value
    return Graph(
        tuple(nodes),
        tensors,
        {name: sizes for name, sizes in _values(graph, 11).items() if name not in tensors},
        _values(graph, 12),
    )


def describe(graph: Graph) -> dict[str, Any]:
    """What can be told of a network without running it, as JSON values.

    Returns:
        "inputs" and "outputs": name -> sizes; "layers": [operator, sizes of the stored tensor it takes] for each
        node that takes one, in order.
    """
    layers = []
    for node in graph.nodes[:_MAX_LAYERS]:
        stored = next((graph.tensors[name] for name in node.inputs if name in graph.tensors), None)
        if stored is not None and stored.ndim:
            layers.append([node.operator, list(stored.shape)])
    return {
        "inputs": {name: list(sizes) for name, sizes in list(graph.inputs.items())[:16]},
        "outputs": {name: list(sizes) for name, sizes in list(graph.outputs.items())[:16]},
        "layers": layers,
    }


def _stored_value(node: Node, tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """The value of a node that can be known now: exporters hide weights behind Constant, Identity and Transpose."""
    if len(node.outputs) != 1:
        return None
    if node.operator == "Constant" and not node.inputs:
        for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
            if name in node.attributes:
                return np.asarray(node.attributes[name])
    if len(node.inputs) != 1 or node.inputs[0] not in tensors:
        return None
    value = tensors[node.inputs[0]]
    if node.operator == "Identity":
        return value
    if node.operator == "Transpose":
        order = node.attributes.get("perm", list(range(value.ndim))[::-1])
        if isinstance(order, list) and sorted(map(str, order)) == sorted(map(str, range(value.ndim))):
            turned: NDArray[Any] = value.transpose(order)
            return turned
    return None


def _node(message: Message) -> Node:
    domain = message.text(7)
    operator = message.text(4) if domain in ("", "ai.onnx") else f"{domain}.{message.text(4)}"
    attributes = {}
    for attribute in message.messages(5, "attribute"):
        attributes[attribute.text(1)] = _attribute(attribute)
    return Node(operator, tuple(message.texts(1)), tuple(message.texts(2)), attributes)


def _attribute(message: Message) -> Any:
    """Its value; None for one of a kind that isn't read (a sub-graph, a type)."""
    kind = message.unsigned(20)
    if kind == 0:  # files of before 2016 leave it out
        kind = next((kind for kind, number in ((1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8)) if number in message), 0)
    if kind == 1:
        return message.float32(2)
    if kind == 2:
        return message.integer(3)
    if kind == 3:
        return message.text(4)
    if kind == 4:
        return _tensor(message.message(5, "tensor"))
    if kind == 6:
        return np.frombuffer(message.packed(7, 4), "<f4").tolist()
    if kind == 7:
        return message.integers(8)
    if kind == 8:
        return message.texts(9)
    return None


def _tensor(message: Message) -> NDArray[Any]:
    name = message.text(8)[:100]
    sizes = message.integers(1)
    code = message.unsigned(2)
    if code not in _TYPES:
        raise CheckpointError(f"its tensor {name!r} has the element type {code}, which is not read.")
    if message.unsigned(14) or 13 in message or 3 in message:
        raise CheckpointError(
            f"the values of its tensor {name!r} stand in another file.",
            hint="export the model as one file.",
        )
    if len(sizes) > _MAX_DIMENSIONS or any(size < 0 for size in sizes):
        raise CheckpointError(f"its tensor {name!r} has the sizes {sizes[:20]}.")
    values = _elements(message, code)
    if values.size != math.prod(sizes):
        raise CheckpointError(f"its tensor {name!r} has {values.size} values, expected {sizes} of them.")
    return values.reshape(sizes)


def _elements(message: Message, code: int) -> NDArray[Any]:
    """The values of a tensor, one behind the other."""
    dtype = np.dtype(_TYPES[code])
    if 9 in message:
        raw = message.view(9)
        if len(raw) % dtype.itemsize:
            raise CheckpointError(
                f"its tensor {message.text(8)[:100]!r} has {len(raw)} bytes of {dtype.itemsize} each."
            )
        return np.frombuffer(raw, dtype)
    if code == _FLOAT:
        return np.frombuffer(message.packed(4, 4), dtype)
    if code == _DOUBLE:
        return np.frombuffer(message.packed(10, 8), dtype)
    if code == _INT64:
        return np.array(message.integers(7), dtype)
    values = np.array(message.integers(5), np.int64)
    if code == _FLOAT16:  # its bits, one value in each int32
        return (values & 0xFFFF).astype("<u2").view(dtype)
    return values.astype(dtype)


def _values(graph: Message, number: int) -> dict[str, tuple[int | None, ...]]:
    """Inputs (field 11) or outputs (12): name -> sizes."""
    found = {}
    for value in graph.messages(number, "value"):
        shape = value.message(2, "type").message(1, "tensor type").message(2, "shape")
        found[value.text(1)] = tuple(dim.integer(1) if 1 in dim else None for dim in shape.messages(1, "dimension"))
    return found
