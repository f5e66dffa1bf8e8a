"""A writer of ONNX files, small networks of the MDX family with seeded weights, and the input they are compared on.

The writer makes the bytes field by field (numbers: onnx.proto), so that the tests need no `onnx`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# ---------------------------------------------------------------- the wire


def varint(value: int) -> bytes:
    value %= 2**64
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def content(field: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


# ---------------------------------------------------------------- ONNX

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


def tensor(name: str, values: NDArray[Any], *, raw: bool = True) -> bytes:
    """TensorProto; with raw=False in the field of its type."""
    data = b"".join(number(1, size) for size in values.shape)
    data += number(2, TYPES[str(values.dtype)]) + content(8, name)
    if raw:
        return data + content(9, values.tobytes())
    kind = str(values.dtype)
    if kind == "float32":
        return data + content(4, values.tobytes())
    if kind == "float64":
        return data + content(10, values.tobytes())
    if kind == "int64":
        return data + content(7, b"".join(varint(int(v)) for v in values.ravel()))
    bits = values.view("<u2") if kind == "float16" else values
    return data + content(5, b"".join(varint(int(v)) for v in bits.ravel()))


def attribute(name: str, value: Any) -> bytes:
    data = content(1, name)
    if isinstance(value, float):
        return data + varint(2 << 3 | 5) + struct.pack("<f", value) + number(20, 1)
    if isinstance(value, int):
        return data + number(3, value) + number(20, 2)
    if isinstance(value, str):
        return data + content(4, value) + number(20, 3)
    if isinstance(value, np.ndarray):
        return data + content(5, tensor("", value)) + number(20, 4)
    if value and isinstance(value[0], float):
        return data + content(7, struct.pack(f"<{len(value)}f", *value)) + number(20, 6)
    if value and isinstance(value[0], str):
        return data + b"".join(content(9, item) for item in value) + number(20, 8)
    return data + b"".join(number(8, item) for item in value) + number(20, 7)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> bytes:
    data = b"".join(content(1, name) for name in inputs) + b"".join(content(2, name) for name in outputs)
    data += content(4, operator)
    return data + b"".join(content(5, attribute(name, value)) for name, value in attributes.items())


def value_info(name: str, sizes: Sequence[int | str]) -> bytes:
    dims = b"".join(content(1, number(1, s) if isinstance(s, int) else content(2, s)) for s in sizes)
    return content(1, name) + content(2, content(1, number(1, 1) + content(2, dims)))


def model(
    nodes: Sequence[bytes],
    tensors: Sequence[bytes],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
) -> bytes:
    graph = b"".join(content(1, item) for item in nodes) + content(2, "toy")
    graph += b"".join(content(5, item) for item in tensors)
    graph += b"".join(content(11, value_info(*item)) for item in inputs.items())
    graph += b"".join(content(12, value_info(*item)) for item in outputs.items())
    return number(1, 7) + content(2, "tests") + content(7, graph) + content(8, content(1, "") + number(2, 13))


# ---------------------------------------------------------------- MDX-Net

# case -> shape of the network, and how its file is written
MDX_NET_CASES: dict[str, dict[str, Any]] = {
    "folded": {"g": 6, "L": 5},  # as UVR's files: only the layers over frequency keep their normalisation
    "unfolded": {"g": 4, "L": 3, "l": 2, "folded": False},
    "transposed_only": {"g": 4, "L": 7, "bn": 4, "keep": ("ConvTranspose",)},
    "half": {"g": 4, "L": 3, "dtype": "float16"},
    "float_data": {"g": 4, "L": 3, "raw": False, "k": 5},
}
MDX_NET = {"dim_f": 64, "dim_t": 16, "l": 3, "k": 3, "bn": 8}


class MDXNetFile:
    """An MDX-Net's graph with seeded weights, written node by node.

    Args:
        folded: batch normalisation is folded into the convolutions before it.
        keep: operators whose normalisation stays nevertheless.
        dtype, raw: how tensors are stored.
        rounded: weights are rounded to half precision before they are stored.
        change: called with each node's (operator, inputs, outputs, attributes); what it returns is written instead.
    """

    def __init__(
        self, *, g: int, L: int, l: int = 3, k: int = 3, bn: int = 8, dim_f: int = 64, dim_t: int = 16,  # noqa: E741
        folded: bool = True, keep: Sequence[str] = (), dtype: str = "float32", raw: bool = True, change: Any = None,
        rounded: bool = False,
    ) -> None:  # fmt: skip
        self._generator = np.random.default_rng(0)
        self._folded, self._keep, self._dtype, self._raw, self._change = folded, keep, dtype, raw, change
        self._rounded = rounded
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._value = "input"
        self._count = 0
        sizes = ["batch", 4, dim_f, dim_t]
        self._layer("Conv", 4, g, 1)
        self._put("Transpose", [self._value], perm=[0, 1, 3, 2])
        skips, bins, width = [], dim_f, g
        for _ in range(L // 2):
            skips.append(self._block(width, bins, l, k, bn))
            self._layer("Conv", width, width + g, 2, stride=2)
            bins, width = bins // 2, width + g
        self._block(width, bins, l, k, bn)
        for _ in range(L // 2):
            self._layer("ConvTranspose", width, width - g, 2, stride=2)
            bins, width = bins * 2, width - g
            self._put("Mul", [self._value, skips.pop()])
            self._block(width, bins, l, k, bn)
        self._put("Transpose", [self._value], perm=[0, 1, 3, 2])
        self._layer("Conv", width, 4, 1, relu=False)
        self.data = model(self._nodes, self._tensors, {"input": sizes}, {self._value: sizes})

    def _store(self, values: NDArray[np.float64]) -> str:
        name = f"w{len(self._tensors)}"
        values = values.astype("float16") if self._rounded else values
        self._tensors.append(tensor(name, values.astype(self._dtype), raw=self._raw))
        return name

    def _put(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        self._count += 1
        written = (operator, list(inputs), [f"v{self._count}"], attributes)
        if self._change is not None:
            written = self._change(*written)
        self._nodes.append(node(written[0], written[1], written[2], **written[3]))
        self._value = f"v{self._count}"
        return self._value

    def _norm(self, channels: int) -> None:
        g = self._generator
        weights = [0.8 + 0.4 * g.random(channels), 0.1 * g.standard_normal(channels)]
        weights += [0.1 * g.standard_normal(channels), 0.5 + g.random(channels)]
        self._put("BatchNormalization", [self._value, *map(self._store, weights)], epsilon=1e-5, momentum=0.9)

    def _layer(
        self, operator: str, inputs: int, outputs: int, kernel: int, *, stride: int = 1, relu: bool = True
    ) -> None:
        shape = (inputs, outputs) if operator == "ConvTranspose" else (outputs, inputs)
        scale = (inputs * kernel**2 / (stride**2 if operator == "ConvTranspose" else 1)) ** -0.5
        weight = self._generator.standard_normal((*shape, kernel, kernel)) * scale
        bias = 0.1 * self._generator.standard_normal(outputs)
        pads = [kernel // 2 if stride == 1 else 0] * 4
        self._put(
            operator, [self._value, self._store(weight), self._store(bias)], dilations=[1, 1], group=1,
            kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2,
        )  # fmt: skip
        if relu:
            if not self._folded or operator in self._keep:
                self._norm(outputs)
            self._put("Relu", [self._value])

    def _block(self, width: int, bins: int, layers: int, kernel: int, factor: int) -> str:
        for _ in range(layers):
            self._layer("Conv", width, width, kernel)
        before = self._value
        for sizes in ((bins, bins // factor), (bins // factor, bins)):
            weight = self._generator.standard_normal(sizes) * sizes[0] ** -0.5
            self._put("MatMul", [self._value, self._store(weight)])
            self._norm(width)
            self._put("Relu", [self._value])
        return self._put("Add", [before, self._value])


def mdx_net_file(case: str, **changes: Any) -> bytes:
    """The ONNX file of a case."""
    return MDXNetFile(**{**MDX_NET_CASES[case], **changes}).data


def spectrum() -> NDArray[np.float32]:
    """[1, 4, dim_f, dim_t]."""
    shape = (1, 4, MDX_NET["dim_f"], MDX_NET["dim_t"])
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------- MDX23C

_SMALL: dict[str, Any] = {
    "n_fft": 512, "hop_length": 128, "dim_f": 256, "chunk_size": 128 * 15, "num_channels": 8, "growth": 8,
    "num_scales": 3, "num_subbands": 4, "num_blocks_per_scale": 2, "bottleneck_factor": 4, "scale": [2, 2],
    "norm": "InstanceNorm", "act": "gelu",
}  # fmt: skip
MDX23C_CASES: dict[str, dict[str, Any]] = {
    "two_stems": {**_SMALL, "instruments": ["vocals", "instrumental"]},
    "target": {**_SMALL, "instruments": ["dry", "reverb"], "target_instrument": "dry", "growth": 4},
    "six_stems": {
        **_SMALL, "instruments": ["kick", "snare", "toms", "hi_hat", "ride", "crash"], "dim_f": 128,
        "num_blocks_per_scale": 1, "num_scales": 2,
    },
    "batch_norm": {**_SMALL, "instruments": ["a", "b"], "norm": "BatchNorm", "act": "relu", "num_subbands": 1},
    "group_norm": {**_SMALL, "instruments": ["a", "b"], "norm": "GroupNorm4", "act": "elu0.5", "scale": [1, 2]},
}  # fmt: skip


def seeded_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights that keep the level through the network, the same for the same names and sizes."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name in sorted(shapes):
        shape = shapes[name]
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values /= max(1, values[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            values = 0.5 + values.abs()
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        elif shape:
            values *= 0.1
        else:  # a counter
            values = torch.zeros(())
        state[name] = values
    return state


def mixture(length: int) -> torch.Tensor:
    """[1, 2, length]."""
    return 0.2 * torch.randn(1, 2, length, generator=torch.Generator().manual_seed(2))
