"""Pickles of plain objects: read without executing them, and written as Python 2 did.

A pickle is a program that may call anything. This reader accepts only the opcodes that build lists,
dictionaries, numbers, strings and arrays. The few names that such a pickle needs stand for
functions of this file; nothing that it names is imported.
"""

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cinic_shards.errors import FormatError
from cinic_shards.format import shown

MAX_PICKLE_BYTES = 2**26
"""A batch of CIFAR-10 has 31 MB as published, and 46 MB if Python 3 has written it."""
_MAX_STEPS = 1_000_000
"""A batch needs about five opcodes for each of its 10,000 images, with their file names."""


@dataclass(slots=True)
class PickledArray:
    """A numpy array as a pickle describes it; only that ``data`` is bytes has been checked."""

    shape: tuple[Any, ...] = ()
    dtype: Any = None
    """The name that numpy's dtype is called with, such as ``u1``."""
    is_fortran: bool = False
    """True if ``data`` is in column-major order."""
    data: bytes = b""

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Take the argument of ``ndarray.__setstate__``."""
        _, shape, dtype, is_fortran, data = state
        self.shape = _expect(shape, tuple)
        self.dtype = _expect(dtype, _Dtype).name
        self.is_fortran = is_fortran is True
        self.data = _expect(data, bytes)


@dataclass(slots=True)
class _Dtype:
    """A numpy dtype that a pickle describes."""

    name: Any


def read_pickle(data: bytes) -> Any:
    """Read a pickle of plain objects; nothing that it names is imported or called.

    Returns:
        Dictionaries, lists, tuples, numbers, strings (bytes if Python 2 wrote them), and a
        ``PickledArray`` for each array; at most a few times the memory of ``data``.

    Raises:
        FormatError: it is not a pickle, is truncated, is too large, or does more than hold data.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise FormatError("pickle", f"more than {MAX_PICKLE_BYTES:,} bytes")
    reader = _Unpickler(data)
    try:
        value = reader.load()
        if reader.stack or reader.metastack:
            raise ValueError("more than one value")
        return value
    except (
        AttributeError, EOFError, IndexError, OverflowError, TypeError, ValueError,
        pickle.UnpicklingError, struct.error,
    ) as error:  # fmt: skip
        raise FormatError(
            "pickle", f"not a readable pickle: {shown(str(error) or 'truncated')}"
        ) from error


def _expect(value: Any, expected: type) -> Any:
    if not isinstance(value, expected):
        raise TypeError(f"found {type(value).__name__}, expected {expected.__name__}")
    return value


_BASE: Any = pickle._Unpickler
"""Python's own unpickler, the implementation in Python. The one in C allocates whatever a length or
a memo position asks for, hashes any key, and cannot reject an opcode."""

_STAND_INS: dict[str, Any] = {
    "__builtin__.bytes": lambda: b"",
    "builtins.bytes": lambda: b"",
    "numpy.core.multiarray._reconstruct": lambda *_: PickledArray(),  # numpy 1
    "numpy._core.multiarray._reconstruct": lambda *_: PickledArray(),
    "numpy.dtype": lambda name, *_: _Dtype(name),
    "numpy.ndarray": None,  # an argument of _reconstruct
}


class _Unpickler(_BASE):  # type: ignore[misc]
    """Python's own unpickler, with a bound on opcodes, names and sizes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.dispatch = _Steps(_STEPS)
        self.bytes_to_encode = len(data)

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "_codecs.encode":
            return self._encode
        if full_name in _STAND_INS:
            return _STAND_INS[full_name]
        raise FormatError(
            "pickle",
            f"needs {shown(full_name)}, expected plain data and numpy arrays; nothing was executed",
        )

    def _encode(self, text: str, encoding: str) -> bytes:
        """Decode bytes as protocol 2 writes them: as a string, in latin-1."""
        self.bytes_to_encode -= len(_expect(text, str))
        if self.bytes_to_encode < 0 or encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes that no pickler writes")
        return text.encode("latin-1")

    def build(self) -> None:
        # Python's own method would set attributes of any object, even of a function.
        state = self.stack.pop()
        if isinstance(self.stack[-1], PickledArray):
            self.stack[-1].set_state(state)
        else:
            _expect(self.stack[-1], _Dtype)

    def put(self) -> None:
        position = int(self.readline())
        if not 0 <= position <= _MAX_STEPS:  # many large integers can have the same hash
            raise ValueError("invalid memo position")
        self.memo[position] = self.stack[-1]


class _Steps(dict[int, Callable[[Any], None]]):
    """The opcodes that a pickle may use, and a bound on how many."""

    num_taken = 0

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self.num_taken += 1
        if self.num_taken > _MAX_STEPS:
            raise FormatError("pickle", f"more than {_MAX_STEPS:,} opcodes")
        return super().__getitem__(opcode)

    def __missing__(self, opcode: int) -> Any:
        raise FormatError("pickle", f"does more than hold data (opcode {chr(opcode)!r})")


def _text_keys(opcode: bytes, keys: slice) -> Callable[[Any], None]:
    """Make an opcode's function that checks the keys on the stack, then adds to a dictionary."""

    def step(reader: Any) -> None:
        if not all(isinstance(key, str | bytes) for key in reader.stack[keys]):
            raise TypeError("a dictionary key is not a string")  # hashing it may never end
        _BASE.dispatch[opcode[0]](reader)

    return step


_STEPS = {
    **{
        getattr(pickle, name)[0]: _BASE.dispatch[getattr(pickle, name)[0]]
        for name in (
            "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 "
            "LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES UNICODE "
            "BINUNICODE SHORT_BINUNICODE EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 "
            "TUPLE2 TUPLE3 EMPTY_DICT GET BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL "
            "STACK_GLOBAL REDUCE"
        ).split()
    },
    pickle.DICT[0]: _text_keys(pickle.DICT, slice(0, None, 2)),
    pickle.SETITEM[0]: _text_keys(pickle.SETITEM, slice(-2, -1)),
    pickle.SETITEMS[0]: _text_keys(pickle.SETITEMS, slice(0, None, 2)),
    pickle.PUT[0]: _Unpickler.put,
    pickle.BUILD[0]: _Unpickler.build,
}


def write_pickle(value: Any) -> bytes:
    """Pickle dictionaries, lists, integers, bytes and C-contiguous arrays of uint8.

    The result is what Python 2 would write with protocol 2. Its strings are byte strings, which
    Python 3 reads as str or bytes, as the reader's ``encoding`` says; bytes that Python 3 pickles
    can be read as bytes only. Any release of numpy reads the arrays.
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
