"""Pickles of plain objects: read without running anything of theirs, and written as Python 2 did.

A pickle is a program that may call anything. Here it can take only the steps that build lists,
dictionaries, numbers, texts and arrays, and the few names that such a pickle needs stand for
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
"""A batch of CIFAR-10 is 31 MB as it is published, 46 MB where Python 3 has written it."""
_MAX_STEPS = 1_000_000
"""A batch takes about five an image, with its file names."""


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
        """Take what ``ndarray.__setstate__`` is given."""
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
        Dictionaries, lists, tuples, numbers, texts (bytes where Python 2 wrote them), and a
        ``PickledArray`` for each array. All take a few times the memory of ``data`` at most.

    Raises:
        FormatError: it is not a pickle, is truncated, or does anything else.
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


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} is expected")
    return value


_BASE: Any = pickle._Unpickler
"""Python's own reader, as it is written in Python. The one in C allocates whatever a length or a
place in the memo asks for, hashes any key, and has no way to refuse a step."""

_STAND_INS: dict[str, Any] = {
    "__builtin__.bytes": lambda: b"",
    "builtins.bytes": lambda: b"",
    "numpy.core.multiarray._reconstruct": lambda *_: PickledArray(),  # numpy 1
    "numpy._core.multiarray._reconstruct": lambda *_: PickledArray(),
    "numpy.dtype": lambda name, *_: _Dtype(name),
    "numpy.ndarray": None,  # an argument of _reconstruct
}


class _Unpickler(_BASE):  # type: ignore[misc]
    """Python's own, with a bound on its steps, names and sizes."""

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
            f"a pickle that needs {shown(full_name)}: expected plain data and numpy arrays; "
            "nothing was run",
        )

    def _encode(self, text: str, encoding: str) -> bytes:
        """How protocol 2 writes bytes: as a text, each as one of its own."""
        self.bytes_to_encode -= len(_expect(text, str))
        if self.bytes_to_encode < 0 or encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes as no pickler writes them")
        return text.encode("latin-1")

    def build(self) -> None:
        # Python's own would set attributes of anything, a function too.
        state = self.stack.pop()
        if isinstance(self.stack[-1], PickledArray):
            self.stack[-1].set_state(state)
        else:
            _expect(self.stack[-1], _Dtype)

    def put(self) -> None:
        place = int(self.readline())
        if not 0 <= place <= _MAX_STEPS:  # many large numbers can have the same hash
            raise ValueError("a place in the memo that no pickler takes")
        self.memo[place] = self.stack[-1]


class _Steps(dict[int, Callable[[Any], None]]):
    """The steps that a pickle may take, by their opcode, and how many."""

    num_taken = 0

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self.num_taken += 1
        if self.num_taken > _MAX_STEPS:
            raise FormatError("pickle", f"more than {_MAX_STEPS:,} steps")
        return super().__getitem__(opcode)

    def __missing__(self, opcode: int) -> Any:
        raise FormatError(
            "pickle", f"a pickle that does more than hold data (step {chr(opcode)!r})"
        )


def _text_keys(opcode: bytes, keys: slice) -> Callable[[Any], None]:
    """A step that adds to a dictionary, after a look at the keys on the stack."""

    def step(reader: Any) -> None:
        if not all(isinstance(key, str | bytes) for key in reader.stack[keys]):
            raise TypeError("a key of a dictionary that is no text")  # may take for ever to hash
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
