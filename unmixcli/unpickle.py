"""Reads the pickles inside published checkpoints without Python's `pickle`: nothing in a file can run.

A pickle is a program for a small stack machine. This is such a machine with only the instructions that plain data
and tensors need. It never imports a module and never calls anything a file names: a name either stands in the
tables below, where a function of ours builds plain data for it or an inert stand-in that just records its
arguments, or the file is refused. The opcodes and their arguments are decoded by `pickletools` of the standard
library, which only describes pickles and executes nothing.

To make another published checkpoint readable, add the class names it holds to `INERT`.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any

from unmixcli.errors import CheckpointError

# torch storage class -> name of the element type. Quantised and complex storages are in no published separator.
STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
ITEM_SIZES = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint8": 1, "bool": 1,
}  # fmt: skip

# Names that may appear and mean nothing to us: kept as `Name`, or as `Inert` when the file makes an object of them.
INERT = frozenset(
    {
        "argparse.Namespace",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "numpy.ndarray",
        "numpy.dtype",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "builtins.dict",
        "builtins.list",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        # Demucs packages name their class; its arguments stand beside it.
        "demucs.model.Demucs",
        "demucs.tasnet.ConvTasNet",
        "demucs.demucs.Demucs",
        "demucs.hdemucs.HDemucs",
        "demucs.htdemucs.HTDemucs",
        "diffq.diffq.DiffQuantizer",
        "torch.torch_version.TorchVersion",  # a text: packages in asteroid's format say what wrote them
        *(f"torch.{dtype}" for dtype in ITEM_SIZES),
        *STORAGES,
    }
)

MAX_OPERATIONS = 5_000_000  # about ten seconds; the largest published checkpoint has some 200 000
MAX_DIMENSIONS = 16

_SCALAR_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}
_FRACTION = re.compile(r"-?\d{1,18}(/\d{1,18})?\Z")


@dataclass(frozen=True)
class Name:
    """A global that the file mentions, not imported."""

    name: str


@dataclass(frozen=True, eq=False)
class Inert:
    """An object that the file describes, not made: the name of its class, and what it would have been given."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: list[Any]


@dataclass(frozen=True)
class StorageRef:
    """A storage somewhere in the checkpoint: `numel` elements of `dtype` under `key`."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor as offset, size and stride (elements) over a storage; checked to lie inside it."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for length in self.size:
            count *= length
        return count


class _Mark:
    """Pushed by MARK."""


def read_pickle(stream: IO[bytes]) -> tuple[Any, dict[str, StorageRef]]:
    """The value of the pickle at the stream's position; the stream is left right behind it.

    Returns:
        Plain containers, numbers and texts with `TensorRef`, `Name` and `Inert` in them, and the storages by key.

    Raises:
        CheckpointError: an instruction or a name that is not allowed, or a broken pickle.
    """
    machine = _Machine()
    try:
        return machine.run(stream), machine.storages
    except CheckpointError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, struct.error, Warning) as error:
        raise CheckpointError(f"the pickle is broken: {error}.") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError("the pickle is broken: it asks for absurd amounts of memory.") from error


class _Machine:
    """The stack machine. One method per group of opcodes; what is not handled is refused."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}

    def run(self, stream: IO[bytes]) -> Any:
        argument: Any
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPERATIONS:
                raise CheckpointError(f"the pickle has more than {MAX_OPERATIONS} instructions.")
            name = opcode.name
            if name == "STOP":
                value = self.stack.pop()
                if self.stack:
                    raise CheckpointError("the pickle is broken: values are left on its stack.")
                return value
            if name in _PUSH_ARGUMENT:
                self.stack.append(argument)
            elif name in _PUSH_NEW:
                self.stack.append(_PUSH_NEW[name]())
            elif name in _PUT:
                self.memo[argument] = self.stack[-1]
            elif name in _GET:
                self.stack.append(self.memo[argument])
            else:
                handler = _HANDLERS.get(name)
                if handler is None:
                    raise _refused(f"its pickle uses the instruction {name}")
                handler(self, argument)
        raise CheckpointError("the pickle is cut off.")

    def pop_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[index], _Mark):
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise CheckpointError("the pickle is broken: a mark is missing.")

    def nothing(self, _: Any) -> None:
        """PROTO, FRAME: no effect on the value."""

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def tuple_of_mark(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count or any(isinstance(item, _Mark) for item in items):
            raise CheckpointError("the pickle is broken: its stack is too short.")
        del self.stack[-count:]
        self.stack.append(items)

    def list_of_mark(self, _: Any) -> None:
        self.stack.append(self.pop_mark())

    def dict_of_mark(self, _: Any) -> None:
        self.stack.append(_fill({}, self.pop_mark()))

    def frozenset_of_mark(self, _: Any) -> None:
        self.stack.append(frozenset(_key(item) for item in self.pop_mark()))

    def append(self, _: Any) -> None:
        item = self.stack.pop()
        _expect(self.stack[-1], list).append(item)

    def appends(self, _: Any) -> None:
        items = self.pop_mark()
        _expect(self.stack[-1], list).extend(items)

    def add_items(self, _: Any) -> None:
        items = self.pop_mark()
        _expect(self.stack[-1], set).update(_key(item) for item in items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(_expect(self.stack[-1], dict), [key, value])

    def set_items(self, _: Any) -> None:
        items = self.pop_mark()
        _fill(_expect(self.stack[-1], dict), items)

    def named(self, argument: str) -> None:
        module, _, name = argument.partition(" ")  # pickletools joins the two lines with a space
        self.stack.append(_name(module, name))

    def stack_named(self, _: Any) -> None:
        name, module = _expect(self.stack.pop(), str), _expect(self.stack.pop(), str)
        self.stack.append(_name(module, name))

    def call(self, _: Any) -> None:
        arguments, function = _expect(self.stack.pop(), tuple), _expect(self.stack.pop(), Name)
        make = _MAKERS.get(function.name)
        self.stack.append(make(*arguments) if make else Inert(function.name, arguments, {}, []))

    def new_object(self, _: Any) -> None:
        arguments, function = _expect(self.stack.pop(), tuple), _expect(self.stack.pop(), Name)
        self.stack.append(Inert(function.name, arguments, {}, []))

    def new_object_with_keywords(self, _: Any) -> None:
        keywords, arguments = _expect(self.stack.pop(), dict), _expect(self.stack.pop(), tuple)
        self.stack.append(Inert(_expect(self.stack.pop(), Name).name, arguments, keywords, []))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state.append(state)
        elif not isinstance(target, OrderedDict):  # an OrderedDict's state is torch's `_metadata`: dropped
            raise _refused(f"its pickle sets the state of a {type(target).__name__}")

    def persistent(self, _: Any) -> None:
        match self.stack.pop():
            case ("storage", Name(name), str(key), str(), int(numel), *view) if name in STORAGES and numel >= 0:
                if view not in ([], [None]):
                    raise _refused("a storage in it is a view of another one")
                storage = StorageRef(key, STORAGES[name], numel)
                if self.storages.setdefault(key, storage) != storage:
                    raise _refused(f"the storage {key!r} is described in two ways")
                self.stack.append(storage)
            case other:
                raise _refused(f"its pickle refers to something outside that is no known storage: {str(other)[:80]}")


_PUSH_ARGUMENT = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
        "BINBYTES8",
    }
)  # fmt: skip
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": _Mark,
}
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
    "MEMOIZE": _Machine.memoize,
    "POP": _Machine.pop,
    "TUPLE": _Machine.tuple_of_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of_mark,
    "DICT": _Machine.dict_of_mark,
    "FROZENSET": _Machine.frozenset_of_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.stack_named,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_with_keywords,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


def _refused(why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is refused: {why}, which is not among what weights need.",
        hint="nothing of the file was run. If you trust its author, ask for a safetensors file or a plain state dict.",
    )


def _name(module: str, name: str) -> Name:
    module = "builtins" if module == "__builtin__" else module
    full = f"{module}.{name}"
    if full not in INERT and full not in _MAKERS:
        raise _refused(f"it names {full[:80]!r}")
    return Name(full)


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"the pickle is broken: a {type(value).__name__} where a {kind.__name__} must be.")
    return value


def _key(value: Any) -> Any:
    """A dictionary key: flat on purpose, as hashing nested tuples can be made to take forever."""
    flat = value if isinstance(value, tuple) else (value,)
    if not all(item is None or isinstance(item, (str, int, float, bytes)) for item in flat):
        raise _refused(f"a {type(value).__name__} is a key of a dictionary in it")
    return value


def _fill(target: Any, items: list[Any]) -> Any:
    if len(items) % 2:
        raise CheckpointError("the pickle is broken: a key without a value.")
    for index in range(0, len(items), 2):
        target[_key(items[index])] = items[index + 1]
    return target


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((_key(key), value) for key, value in pairs)


def _default_dict(factory: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in _expect(items, list)}


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    """A tensor, if all of it lies inside its storage and it is not larger than that."""
    storage = _expect(storage, StorageRef)
    size, stride = tuple(_expect(size, tuple)), tuple(_expect(stride, tuple))
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
        raise _refused(f"a tensor has the impossible offset {offset}, size {size} and stride {stride}")
    tensor = TensorRef(storage, offset, size, stride)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if tensor.numel and (last >= storage.numel or tensor.numel > storage.numel):
        raise _refused(f"a tensor of size {size} does not fit its storage of {storage.numel} elements")
    return tensor


def _parameter(data: Any, *_: Any) -> TensorRef:
    tensor: TensorRef = _expect(data, TensorRef)
    return tensor


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    return tuple(_expect(lengths, tuple))


def _device(kind: Any, index: Any = None) -> str:
    return str(_expect(kind, str)) if index is None else f"{kind}:{index}"


def _fraction(numerator: Any, denominator: Any = 1) -> Fraction:
    if isinstance(numerator, str):
        if not _FRACTION.match(numerator):  # "1e999999999" would be computed for hours
            raise _refused(f"a fraction is written {numerator[:40]!r}")
        return Fraction(numerator)
    return Fraction(_expect(numerator, int), _expect(denominator, int))


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise _refused(f"bytes are encoded as {encoding!r}")
    return bytes(_expect(text, str).encode("latin1"))


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    """A number for the simple types, else a stand-in."""
    form = _SCALAR_FORMATS.get(dtype.args[0]) if isinstance(dtype, Inert) and dtype.args else None
    if form is None or not isinstance(data, bytes):
        return Inert("numpy scalar", (dtype, data), {}, [])
    return struct.unpack("<" + form, data)[0]


_MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "builtins.set": _set,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "fractions.Fraction": _fraction,
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
