"""CIFAR-10 as its authors publish it: six pickles in a tar, read without unpickling anything.

https://www.cs.toronto.edu/~kriz/cifar.html says what is in them. A pickle is a program that may
call anything. Here the standard library splits it into its steps, and only those that build lists,
dictionaries, numbers, texts and an array of bytes are followed; nothing that it names is called.
"""

import gzip
import io
import os
import pickletools
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError, StoreError
from cinic_shards.format import shown

FOLDER = "cifar-10-batches-py"
"""Of the files, in the archive and where torchvision looks for them."""
META = "batches.meta"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCHES = ("test_batch",)
BATCH_SIZE = 10_000
"""Images in each batch."""
IMAGE_SHAPE = (32, 32, 3)
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
"""Class names in the order of their labels, as ``batches.meta`` has them."""

_MAX_FILE_BYTES = 2**26
"""Of a batch: 31 MB as it is published, 46 MB where Python 3 has written it."""
_MAX_ARCHIVE_BYTES = 2**29
"""Of the archive's content: a few bytes of gzip can hold any number."""
_MAX_STEPS = 1_000_000
"""Of a pickle: a batch takes about five an image, with its file names."""
_HINT = "get cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html again"


@dataclass(frozen=True, slots=True)
class CifarSet:
    """The train set or the test set, in its original order."""

    images: NDArray[np.uint8]
    """Shape (50000, 32, 32, 3) or (10000, 32, 32, 3), RGB."""
    labels: NDArray[np.int64]
    """A place in ``Cifar10.label_names`` each, shape (50000,) or (10000,)."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Cifar10:
    """All of CIFAR-10."""

    train: CifarSet
    test: CifarSet
    label_names: tuple[str, ...]
    """The ten class names; a label is a place here."""

    @property
    def sets(self) -> dict[str, CifarSet]:
        """Both sets by the names that CINIC-10's file names have."""
        return {"train": self.train, "test": self.test}


def set_sizes() -> dict[str, int]:
    """Images in each set."""
    return {"train": len(TRAIN_BATCHES) * BATCH_SIZE, "test": len(TEST_BATCHES) * BATCH_SIZE}


def read_cifar10(path: str | os.PathLike[str]) -> Cifar10:
    """Read CIFAR-10's Python version, and check all of it.

    Args:
        path: ``cifar-10-python.tar.gz``, or the folder ``cifar-10-batches-py`` out of it. Neither
            need be trusted: nothing in it is executed, and memory is bounded.

    Raises:
        StoreError: it cannot be read.
        FormatError: it is not CIFAR-10, is truncated or holds something else; tells everything
            that is wrong with it.
    """
    path = Path(path)
    names = (*TRAIN_BATCHES, *TEST_BATCHES, META)
    parsed: dict[str, Any] = {}
    problems = dict.fromkeys(names, "missing")
    for name, data in _read_files(path):
        if name in names:
            problems[name] = "there twice" if name in parsed else ""
            try:
                content = _with_texts(read_pickle(data))
                parsed[name] = _label_names(content) if name == META else _batch(content)
            except FormatError as error:
                problems[name] = str(error)
    problems = {name: problem for name, problem in problems.items() if problem}
    if problems:
        listed = "".join(f"\n  {FOLDER}/{name}: {text}" for name, text in problems.items())
        raise FormatError(f"{path}: not CIFAR-10's Python version; {_HINT}{listed}")
    return Cifar10(
        _joined([parsed[name] for name in TRAIN_BATCHES]),
        _joined([parsed[name] for name in TEST_BATCHES]),
        parsed[META],
    )


def _joined(batches: Sequence[CifarSet]) -> CifarSet:
    return CifarSet(
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )


# Files


def _read_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in an archive or a folder."""
    try:
        if path.is_dir():
            yield from _read_folder(path)
            return
        with open(path, "rb") as file:
            is_compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = gzip.GzipFile(fileobj=file) if is_compressed else file
            with tarfile.open(fileobj=_Bounded(content), mode="r|") as archive:
                yield from _read_members(path, archive)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise FormatError(f"{path}: not a whole tar archive ({error}); {_HINT}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with open(file, "rb") as content:
                yield file.name, content.read(_MAX_FILE_BYTES + 1)


def _read_members(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        folder, _, name = member.name.removeprefix("./").rpartition("/")
        if folder != FOLDER or not member.isfile():
            continue
        if member.size > _MAX_FILE_BYTES:
            raise FormatError(
                f"{path}: {member.name} is {member.size:,} bytes, expected at most "
                f"{_MAX_FILE_BYTES:,}; {_HINT}"
            )
        file = archive.extractfile(member)
        assert file is not None  # of an ordinary file
        yield name, file.read()


class _Bounded(io.RawIOBase):
    """A stream that may not hold more than an archive's bytes."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile) -> None:
        super().__init__()
        self._stream = stream
        self._left = _MAX_ARCHIVE_BYTES

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError(f"it holds more than {_MAX_ARCHIVE_BYTES:,} bytes")
        return data


# Pickles


@dataclass(slots=True)
class _Name:
    """Something that a pickle names; it is never looked up."""

    name: str


@dataclass(slots=True)
class _Array:
    """A numpy array that a pickle describes."""

    state: tuple[Any, ...] = ()


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
    if len(data) > _MAX_FILE_BYTES:
        raise FormatError(f"more than {_MAX_FILE_BYTES:,} bytes")
    machine = _Machine()
    step, opcode = 0, None
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if step == _MAX_STEPS:
                raise FormatError(f"more than {_MAX_STEPS:,} steps")
            machine.run(opcode.name, argument)
        return machine.result()
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        done = "" if opcode is None else f", step {step} ({opcode.name})"
        raise FormatError(f"not a readable pickle{done}: {shown(str(error))}") from error


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
            if isinstance(stack[-1], _Array):
                stack[-1].state = _expect(state, tuple)
            else:
                _expect(stack[-1], _Dtype)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise FormatError(f"a pickle that does more than hold data (step {name})")

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
        return _Array()
    elif name == "numpy dtype":
        return _Dtype(arguments[0])
    raise FormatError(
        f"a pickle that calls {shown(name)}: expected plain data and numpy arrays; nothing was run"
    )


# What must be in them


def _with_texts(content: Any) -> dict[str, Any]:
    """A dictionary whose keys are texts, as Python 3 has them."""
    if not isinstance(content, dict):
        raise FormatError(f"holds {type(content).__name__}, expected a dictionary")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    """A text, of Python 2's too; empty for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _brief(value: Any) -> str:
    """For a message. A container that holds itself many times over would take for ever."""
    if isinstance(value, bytes | str | int | float | None):
        return shown(value)
    return type(value).__name__


def _batch(content: dict[str, Any]) -> CifarSet:
    height, width, channels = IMAGE_SHAPE
    shape = BATCH_SIZE, channels * height * width
    planes = _bytes_of(content.get("data"), shape).reshape(-1, channels, height, width)
    labels = content.get("labels")
    if not isinstance(labels, list) or len(labels) != BATCH_SIZE:
        found = f"{len(labels):,}" if isinstance(labels, list) else _brief(labels)
        raise FormatError(f"labels are {found}, expected a list of {BATCH_SIZE:,}")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CLASSES):
            raise FormatError(f"label {row} is {_brief(label)}, expected 0 to {len(CLASSES) - 1}")
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return CifarSet(images, np.array(labels, np.int64))


def _bytes_of(array: Any, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """An array of uint8 of this shape."""
    if not isinstance(array, _Array) or len(array.state) != 5:
        raise FormatError("data is no array")
    _, found_shape, dtype, is_fortran, data = array.state
    if not isinstance(dtype, _Dtype) or _text(dtype.name) not in ("u1", "|u1", "uint8"):
        raise FormatError("data is not of uint8")
    size = shape[0] * shape[1]
    if found_shape != shape:
        stated = "x".join(map(_brief, found_shape)) if isinstance(found_shape, tuple) else "?"
        raise FormatError(f"data is of shape {stated[:100]}, expected {shape[0]}x{shape[1]}")
    if not isinstance(data, bytes) or len(data) != size:
        raise FormatError(f"data has another number of bytes than the {size:,} of its shape")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _label_names(content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("label_names")
    if not isinstance(names, list) or tuple(map(_text, names)) != CLASSES:
        found = [_text(name) for name in names] if isinstance(names, list) else _brief(names)
        raise FormatError(f"label_names are {shown(found)}, expected {', '.join(CLASSES)}")
    return CLASSES
