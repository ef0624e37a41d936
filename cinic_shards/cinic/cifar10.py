"""CIFAR-10 as its authors publish it: seven pickles in a tar.

They are described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.cinic.pickles import MAX_PICKLE_BYTES, PickledArray, read_pickle, write_pickle
from cinic_shards.errors import FormatError, OutputError, StoreError, reason_of
from cinic_shards.format import shown
from cinic_shards.store import LocalStore, WorkFolder, local_path

FOLDER = "cifar-10-batches-py"
"""Folder of the files, in the archive and where torchvision looks for them."""
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

_MAX_ARCHIVE_BYTES = 2**29
"""Bound on the unpacked size of an archive: a few bytes of gzip can expand to any size."""
_HINT = "get cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html again"


@dataclass(frozen=True, slots=True)
class CifarSet:
    """The train set or the test set, in its original order."""

    images: NDArray[np.uint8]
    """uint8, shape (50000, 32, 32, 3) or (10000, 32, 32, 3), RGB."""
    labels: NDArray[np.int64]
    """Positions in ``Cifar10.label_names``, shape (50000,) or (10000,)."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Cifar10:
    """All of CIFAR-10."""

    train: CifarSet
    test: CifarSet
    label_names: tuple[str, ...]
    """The ten class names; a label is a position in this tuple."""

    @property
    def sets(self) -> dict[str, CifarSet]:
        """Both sets by name: ``train`` and ``test``, as in CINIC-10's file names."""
        return {"train": self.train, "test": self.test}


def set_sizes() -> dict[str, int]:
    """Return the number of images in each set."""
    return {"train": len(TRAIN_BATCHES) * BATCH_SIZE, "test": len(TEST_BATCHES) * BATCH_SIZE}


def read_cifar10(path: str | os.PathLike[str]) -> Cifar10:
    """Read CIFAR-10's Python version, and check all of it.

    Args:
        path: ``cifar-10-python.tar.gz``, or the folder ``cifar-10-batches-py`` extracted from it.
            Both may be untrusted: nothing in them is executed, and memory is bounded.

    Raises:
        StoreError: it cannot be read.
        FormatError: it is truncated or is not CIFAR-10; lists every problem.
    """
    path = local_path(path)
    names = (*TRAIN_BATCHES, *TEST_BATCHES, META)
    parsed: dict[str, Any] = {}
    problems = dict.fromkeys(names, "missing")
    for name, data in _read_files(path):
        if name in names:
            problems[name] = "duplicate" if name in parsed else ""
            try:
                content = _with_texts(name, read_pickle(data))
                parsed[name] = (_label_names if name == META else _batch)(name, content)
            except FormatError as error:
                problems[name] = error.reason
    problems = {name: problem for name, problem in problems.items() if problem}
    if problems:
        listed = "".join(f"\n  {FOLDER}/{name}: {text}" for name, text in problems.items())
        raise FormatError(str(path), f"not CIFAR-10's Python version; {_HINT}{listed}")
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
    """Yield name and content of each file in an archive or a folder."""
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
        raise FormatError(str(path), f"not a complete tar archive ({error}); {_HINT}") from error
    except OSError as error:
        raise StoreError(str(path), reason_of(error)) from error


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with open(file, "rb") as content:
                yield file.name, content.read(MAX_PICKLE_BYTES + 1)


def _read_members(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        folder, _, name = member.name.removeprefix("./").rpartition("/")
        if folder != FOLDER or not member.isfile():
            continue
        if member.size > MAX_PICKLE_BYTES:
            raise FormatError(
                str(path),
                f"{member.name} is {member.size:,} bytes, expected at most "
                f"{MAX_PICKLE_BYTES:,}; {_HINT}",
            )
        file = archive.extractfile(member)
        assert file is not None  # it is an ordinary file
        yield name, file.read()


class _Bounded(io.RawIOBase):
    """A stream that raises after ``_MAX_ARCHIVE_BYTES``."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile) -> None:
        super().__init__()
        self._stream = stream
        self._left = _MAX_ARCHIVE_BYTES

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes."""
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError(f"it holds more than {_MAX_ARCHIVE_BYTES:,} bytes")
        return data


# Contents


def _with_texts(name: str, content: Any) -> dict[str, Any]:
    """Convert a dictionary's keys to str, as Python 3 has them."""
    if not isinstance(content, dict):
        raise FormatError(name, f"holds {type(content).__name__}, expected a dictionary")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    """Convert a str of Python 2 or 3 to str; anything else to an empty one."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _brief(value: Any) -> str:
    """Show a value in a message: a container only by its type, as nested ones can be endless.

    An integer of thousands of digits, too: Python cannot print it.
    """
    is_short = isinstance(value, int) and value.bit_length() <= 64
    if is_short or isinstance(value, bytes | str | float | None):
        return shown(value)
    return type(value).__name__


def _batch(name: str, content: dict[str, Any]) -> CifarSet:
    height, width, channels = IMAGE_SHAPE
    shape = BATCH_SIZE, channels * height * width
    planes = _bytes_of(name, content.get("data"), shape).reshape(-1, channels, height, width)
    labels = content.get("labels")
    if not isinstance(labels, list) or len(labels) != BATCH_SIZE:
        found = f"{len(labels):,}" if isinstance(labels, list) else _brief(labels)
        raise FormatError(name, f"labels are {found}, expected a list of {BATCH_SIZE:,}")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CLASSES):
            raise FormatError(
                name, f"label {row} is {_brief(label)}, expected 0 to {len(CLASSES) - 1}"
            )
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return CifarSet(images, np.array(labels, np.int64))


def _bytes_of(name: str, array: Any, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Check an array's dtype, shape and size, and return it as uint8."""
    if not isinstance(array, PickledArray):
        raise FormatError(name, "data is not an array")
    if _text(array.dtype) not in ("u1", "|u1", "uint8"):
        raise FormatError(name, "data is not uint8")
    size = shape[0] * shape[1]
    if array.shape != shape:
        stated = "x".join(map(_brief, array.shape))
        raise FormatError(name, f"data has shape {stated[:100]}, expected {shape[0]}x{shape[1]}")
    if len(array.data) != size:
        raise FormatError(name, f"data has {len(array.data):,} bytes, expected {size:,}")
    pixels = np.frombuffer(array.data, np.uint8)
    return pixels.reshape(shape, order="F" if array.is_fortran else "C")


def _label_names(name: str, content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("label_names")
    if not isinstance(names, list) or tuple(map(_text, names)) != CLASSES:
        found = [_text(name) for name in names] if isinstance(names, list) else _brief(names)
        raise FormatError(name, f"label_names are {shown(found)}, expected {', '.join(CLASSES)}")
    return CLASSES


# Writing


def write_npz(cifar: Cifar10, target: Path) -> None:
    """Write an ``.npz`` file.

    Its arrays are ``x_train`` and ``x_test`` (uint8, shape (N, 32, 32, 3)), ``y_train`` and
    ``y_test`` (int64, shape (N,)), and ``label_names`` (shape (10,)).

    Raises:
        OutputError: it cannot be written; no partial file is left.
    """
    with _made(target.parent), LocalStore(target.parent).create(target.name) as file:
        np.savez(
            file,
            x_train=cifar.train.images,
            y_train=cifar.train.labels,
            x_test=cifar.test.images,
            y_test=cifar.test.labels,
            label_names=np.array(cifar.label_names),
        )


def write_batches(cifar: Cifar10, target: Path) -> None:
    """Write the archive's folder ``cifar-10-batches-py``; it appears when it is complete.

    Raises:
        OutputError: it cannot be written; no partial folder is left.
    """
    with (
        _made(target.parent),
        WorkFolder(LocalStore(target.parent), f"{target.name}.partial", "restoring") as work,
    ):
        partial = LocalStore(work.path("batches"))
        names = (*TRAIN_BATCHES, *TEST_BATCHES, META)
        try:
            # An earlier process may have been killed.
            for name in names:
                partial.delete(name)
            partial.make()
            for name, content in _contents(cifar):
                partial.path(name).write_bytes(write_pickle(content))
            os.rename(partial.root, target)
        finally:
            for name in names:
                partial.delete(name)
            work.remove()


def _contents(cifar: Cifar10) -> Iterator[tuple[str, dict[bytes, Any]]]:
    """Yield name and content of each file, with the fields of the published ones.

    The published ``filenames`` are those of the collection that the images were chosen from, and
    are not in CINIC-10: these are CINIC-10's file names instead.
    """
    for title, set_name, names in (
        ("training", "train", TRAIN_BATCHES),
        ("testing", "test", TEST_BATCHES),
    ):
        one = cifar.sets[set_name]
        size = len(one) // len(names)
        for number, name in enumerate(names):
            start, stop = number * size, (number + 1) * size
            planes = np.ascontiguousarray(one.images[start:stop].transpose(0, 3, 1, 2))
            yield (
                name,
                {
                    b"batch_label": f"{title} batch {number + 1} of {len(names)}".encode(),
                    b"labels": one.labels[start:stop].tolist(),
                    b"data": planes.reshape(size, -1),
                    b"filenames": [
                        f"cifar10-{set_name}-{row}.png".encode() for row in range(start, stop)
                    ],
                },
            )
    yield (
        META,
        {
            b"num_cases_per_batch": size,
            b"label_names": [name.encode() for name in cifar.label_names],
            b"num_vis": int(np.prod(IMAGE_SHAPE)),
        },
    )


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder; if an error ends the context, delete it again if it is new."""
    try:
        with LocalStore(folder).undone_on_error():
            folder.mkdir(parents=True, exist_ok=True)
            yield
    except OSError as error:
        raise OutputError(f"{error.filename or folder}: {reason_of(error)}") from error
