"""The weights of MDX-Net out of an ONNX graph, which must be that network's node by node.

Batch normalisation is folded into the convolutions before it, by the exporter already or here; after the layers over
frequency a gain and an offset per channel are left of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.onnx_read import Graph, Node


def sizes_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an MDX-Net's graph tells (`onnx_read.describe`), as far as it looks like one."""
    try:
        layers = [(operator, sizes) for operator, sizes in described["layers"]]
        (sizes,) = described["inputs"].values()
        convolutions = [sizes for operator, sizes in layers if operator == "Conv"]
        linear = next(number for number, (operator, _) in enumerate(layers) if operator == "MatMul")
        bins, narrow = layers[linear][1]
        block = [sizes for operator, sizes in layers[:linear] if operator == "Conv"][1:]
        found = {
            "dim_f": bins,
            "g": convolutions[0][0],
            "L": 2 * sum(operator == "ConvTranspose" for operator, _ in layers) + 1,
            "l": len(block),
            "k": block[0][-1],
            "bn": bins // narrow,
        }
        if len(sizes) == 4 and isinstance(sizes[3], int):
            found["dim_t"] = sizes[3]
    except (KeyError, TypeError, ValueError, IndexError, StopIteration, AttributeError, ZeroDivisionError):
        return {}
    return found


class GraphWalk:
    """Goes through a graph along one value and demands that each next node is the expected one.

    Args:
        graph: of the file.

    Raises:
        CheckpointError (all methods): the graph is another.
    """

    def __init__(self, graph: Graph) -> None:
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise self._other(f"it has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs")
        self._graph = graph
        self._nodes = list(graph.nodes)
        self._position = 0
        self._value = next(iter(graph.inputs))

    def network(self, levels: int, layers: int) -> dict[str, Tensor]:
        """The state dict of an `MDXNet`."""
        state: dict[str, NDArray[Any]] = {}

        def keep(name: str, weights: Mapping[str, NDArray[Any]]) -> None:
            state.update({f"{name}.{kind}": value for kind, value in weights.items()})

        def block(name: str) -> str:
            for number in range(layers):
                keep(f"{name}.tfc.{number}", self._convolution("Conv"))
            before = self._value
            keep(f"{name}.narrow", self._linear())
            keep(f"{name}.wide", self._linear())
            self._take("Add", also=before)
            return self._value

        keep("first", self._convolution("Conv", pads=0))
        self._turn()
        skips = []
        for level in range(levels):
            skips.append(block(f"encoders.{level}"))
            keep(f"down.{level}", self._convolution("Conv", stride=2, pads=0))
        block("middle")
        for level in range(levels):
            keep(f"up.{level}", self._convolution("ConvTranspose", stride=2, pads=0))
            self._take("Mul", also=skips.pop())
            block(f"decoders.{level}")
        self._turn()
        keep("final", self._convolution("Conv", pads=0, relu=False))
        if self._position < len(self._nodes) or self._value not in self._graph.outputs:
            raise self._other(f"after {self._position} of its {len(self._nodes)} nodes this network ends")
        return {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in state.items()}

    def _convolution(
        self, operator: str, *, stride: int = 1, pads: int | None = None, relu: bool = True
    ) -> dict[str, NDArray[Any]]:
        node = self._take(operator)
        weight, *rest = self._stored(node)
        if weight.ndim != 4 or len(rest) > 1 or node.inputs[1] not in self._graph.tensors:
            raise self._other(f"a {operator} has other weights than this network's")
        outputs = weight.shape[1 if operator == "ConvTranspose" else 0]
        wanted = weight.shape[-1] // 2 if pads is None else pads
        for name, value in (("strides", [stride] * 2), ("pads", [wanted] * 4), ("dilations", [1, 1]), ("group", 1)):
            default = [0] * 4 if name == "pads" else [1, 1] if name != "group" else 1
            if node.attributes.get(name, default) != value:
                raise self._other(f"a {operator} has {name} {node.attributes.get(name)}, this network's {value}")
        if node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or any(node.attributes.get("output_padding", ())):
            raise self._other(f"a {operator} is padded otherwise")
        weight = weight.astype(np.float64)
        bias = rest[0].astype(np.float64) if rest else np.zeros(outputs)
        if self._is_next("BatchNormalization"):
            gain, offset = self._norm(outputs)
            weight = weight * gain.reshape((1, -1, 1, 1) if operator == "ConvTranspose" else (-1, 1, 1, 1))
            bias = bias * gain + offset
        if relu:
            self._take("Relu")
        return {"weight": weight, "bias": bias}

    def _linear(self) -> dict[str, NDArray[Any]]:
        node = self._take("MatMul")
        (weight,) = self._stored(node)
        if weight.ndim != 2 or node.inputs[1] not in self._graph.tensors:
            raise self._other("a MatMul is no layer over frequency")
        gain, offset = self._norm(None)
        self._take("Relu")
        return {"weight": weight.T, "gain": gain, "offset": offset}

    def _norm(self, channels: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Gain and offset that are left of a batch normalisation."""
        node = self._take("BatchNormalization")
        tensors = self._stored(node)
        sizes = {tensor.shape for tensor in tensors}
        if len(tensors) != 4 or len(sizes) != 1 or len(tensors[0].shape) != 1:
            raise self._other("a BatchNormalization has other weights than four per channel")
        if channels is not None and sizes != {(channels,)}:
            raise self._other(f"a BatchNormalization has {sizes} weights after {channels} channels")
        weight, bias, mean, variance = (tensor.astype(np.float64) for tensor in tensors)
        epsilon = float(node.attributes.get("epsilon", 1e-5))
        if not epsilon > 0 or not (variance >= 0).all():
            raise self._other("a BatchNormalization has a variance below zero")
        gain = weight / np.sqrt(variance + epsilon)
        return gain, bias - mean * gain

    def _turn(self) -> None:
        """Frames and bins change places."""
        node = self._take("Transpose")
        if node.attributes.get("perm") != [0, 1, 3, 2]:
            raise self._other(f"a Transpose has perm {node.attributes.get('perm')}, this network's [0, 1, 3, 2]")

    def _is_next(self, operator: str) -> bool:
        return self._position < len(self._nodes) and self._nodes[self._position].operator == operator

    def _take(self, operator: str, *, also: str | None = None) -> Node:
        """The next node, which must be `operator` of the current value (and of `also`)."""
        if not self._is_next(operator):
            found = self._nodes[self._position].operator if self._position < len(self._nodes) else "nothing"
            raise self._other(f"node {self._position + 1} is {found}, this network's {operator}")
        node = self._nodes[self._position]
        values = [name for name in node.inputs if name and name not in self._graph.tensors]
        if sorted(values) != sorted([self._value] if also is None else [self._value, also]) or not node.outputs:
            raise self._other(f"node {self._position + 1} ({operator}) takes other values than this network's")
        self._position += 1
        self._value = node.outputs[0]
        return node

    def _stored(self, node: Node) -> list[NDArray[Any]]:
        stored = [self._graph.tensors[name] for name in node.inputs if name in self._graph.tensors]
        if not stored or any(not np.issubdtype(tensor.dtype, np.floating) for tensor in stored):
            raise self._other(f"a {node.operator} has no weights")
        return stored

    @staticmethod
    def _other(what: str) -> CheckpointError:
        return CheckpointError(
            f"the ONNX graph is not an MDX-Net as unmixcli knows it: {what}.",
            hint="architecture onnx_spectrogram runs any graph that maps spectra to spectra, in onnxruntime.",
        )
