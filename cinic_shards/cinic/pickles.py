"""Pickles of plain objects: read without unpickling anything, and written as Python 2 did.

A pickle is a program that may call anything. Here the standard library splits it into its steps,
and only those that build lists, dictionaries, numbers, texts and arrays are followed; nothing that
it names is looked up or called.
"""

import pickletools
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cinic_shards.errors import FormatError
from cinic_shards.format import shown

MAX_PICKLE_BYTES = 2**26
"""Of a batch of CIFAR-10: 31 MB as it is published, 46 MB where Python 3 has written it."""
_MAX_STEPS = 1_000_000
"""Of a pickle: a batch takes about five an image, with its file names."""


@dataclass(slots=True)
class PickledArray:
    """A numpy array as a pickle describes it; only ``data`` has been checked, to be bytes."""

    shape: tuple[Any, ...] = ()
    dtype: Any = None
    """The name that numpy's dtype is called with, such as ``u1``."""
    is_fortran: bool = False
    """Whether columns, not rows, follow one another."""
    data: bytes = b""

    def set_state(self, state: tuple[Any, ...]) -> None:
        """What ``ndarray.__setstate__`` is given."""
        _, shape, dtype, is_fortran, data = state
        self.shape = _expect(shape, tuple)
        self.dtype = _expect(dtype, _Dtype).name
        self.is_fortran = is_fortran is True
        self.data = _expect(data, bytes)


@dataclass(slots=True)
class _Name:
    """Something that a pickle names; it is never looked up."""

    name: str


@dataclass(slots=True)
class _Dtype:
    """A numpy dtype that a pickle describes."""

    name: Any


_MARK = object()
_ARRAY_MAKERS = tuple(
    f"{module}.multiarray _reconstruct" for module in ("numpy.core", "numpy._core")
)
"""By numpy 1 and by numpy 2."""


def read_pickle(data: bytes) -> Any:
    """What a pickle of plain objects holds: no object of it is made but Python's own containers.

    Returns:
        Dictionaries, lists, tuples, numbers, texts (of Python 2: bytes), and arrays of uint8.

    Raises:
        FormatError: it is no pickle, is truncated, or does anything else.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise FormatError("pickle", f"more than {MAX_PICKLE_BYTES:,} bytes")
    machine = _Machine()
    step, opcode = 0, None
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if step == _MAX_STEPS:
                raise FormatError("pickle", f"more than {_MAX_STEPS:,} steps")
            machine.run(opcode.name, argument)
        return machine.result()
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        done = "" if opcode is None else f", step {step} ({opcode.name})"
        raise FormatError("pickle", f"not a readable pickle{done}: {shown(str(error))}") from error


@dataclass(slots=True)
class _Machine:
    """Follows a pickle's steps."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, name: str, argument: Any) -> None:
        """One step."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):  # Python 2's are bytes
            stack.append(argument.encode("latin-1"))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Name(f"{module} {attribute}"))
        elif name in _NEW_CONTAINERS:
            stack.append(_NEW_CONTAINERS[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            if len(stack) < size:
                raise IndexError("nothing to take")
            stack[-size:] = [tuple(stack[-size:])]
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self._since_mark()
            stack.append(_from_items(name, items))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._since_mark()
            _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = stack[-2:] if name == "SETITEM" else self._since_mark()
            if name == "SETITEM":
                del stack[-2:]
            _expect(stack[-1], dict).update(_from_items("DICT", items))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduce(function, _expect(arguments, tuple)))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], PickledArray):
                stack[-1].set_state(_expect(state, tuple))
            else:
                _expect(stack[-1], _Dtype)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise FormatError("pickle", f"a pickle that does more than hold data (step {name})")

    def _since_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def result(self) -> Any:
        """What the last step has left."""
        (value,) = self.stack
        return value


_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 BINUNICODE SHORT_BINUNICODE UNICODE BINBYTES "
    "SHORT_BINBYTES BINFLOAT FLOAT".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW_CONTAINERS: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} is expected")
    return value


def _from_items(kind: str, items: list[Any]) -> Any:
    if kind == "TUPLE":
        return tuple(items)
    if kind == "LIST":
        return items
    keys, values = items[::2], items[1::2]
    if not all(isinstance(key, str | bytes) for key in keys):  # others may take for ever to hash
        raise TypeError("a key of a dictionary that is no text")
    return dict(zip(keys, values, strict=True))


def _reduce(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call would give; none is made."""
    name = function.name if isinstance(function, _Name) else type(function).__name__
    if name == "_codecs encode":  # how protocol 2 writes bytes
        text, encoding = arguments
        if encoding in ("latin1", "latin-1"):
            return _expect(text, str).encode("latin-1")
    elif name in ("__builtin__ bytes", "builtins bytes") and not arguments:
        return b""
    elif name in _ARRAY_MAKERS:
        return PickledArray()
    elif name == "numpy dtype":
        return _Dtype(arguments[0])
    raise FormatError(
        "pickle",
        f"a pickle that calls {shown(name)}: expected plain data and numpy arrays; nothing was run",
    )


def write_pickle(value: Any) -> bytes:
    """A pickle of dictionaries, lists, numbers, bytes and C-contiguous arrays of uint8.

    It is what Python 2 would write by protocol 2, whose texts are byte strings: Python 3 reads them
    as texts or as bytes, whichever the reader's ``encoding`` asks for. Its own pickles of bytes are
    bytes for ever. Any release of numpy reads the arrays.
    """
    return b"\x80\x02" + b"".join(_steps(value)) + b"."


def _steps(value: Any) -> list[bytes]:
    if isinstance(value, bytes):
        if len(value) < 256:
            return [b"U", bytes([len(value)]), value]
        return [b"T", struct.pack("<i", len(value)), value]
    if isinstance(value, int):
        return [b"J", struct.pack("<i", value)]
    if isinstance(value, list):
        return [b"](", *(step for item in value for step in _steps(item)), b"e"]
    if isinstance(value, dict):
        pairs = (part for pair in value.items() for part in pair)
        return [b"}(", *(step for part in pairs for step in _steps(part)), b"u"]
    assert value.dtype == np.uint8 and value.flags.c_contiguous
    return [
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01(",
        *(step for size in value.shape for step in _steps(size)),
        b"tcnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
        b"\x89T", struct.pack("<i", value.size), value.tobytes(), b"tb",
    ]  # fmt: skip
