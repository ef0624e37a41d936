"""Restore CIFAR-10 from a packed CINIC-10: all 60,000 images, in their original order."""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cinic_shards.cinic.cifar10 import (
    CLASSES,
    FOLDER,
    IMAGE_SHAPE,
    Cifar10,
    CifarSet,
    read_cifar10,
    set_sizes,
    write_batches,
    write_npz,
)
from cinic_shards.errors import FormatError, OptionError, OutputError, few
from cinic_shards.jobs import Progress
from cinic_shards.options import checked
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.map_images import Images, map_images
from cinic_shards.read.split import SplitReader
from cinic_shards.store import StoreLike, local_path

_Format = Literal["batches", "npz"]


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of ``restore_cifar10``."""

    num_images: int
    written: Path | None
    """The folder or file; None if nothing was to be written."""
    is_checked: bool
    """True if all images and labels were compared with the archive's; they are equal."""


@checked
def restore_cifar10(
    path: StoreLike,
    out: str | os.PathLike[str] | None = None,
    *,
    format: _Format | None = None,  # noqa: A002 - as the command's option is called
    check: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Restored:
    """Write CIFAR-10 as its authors publish it, or prove that a dataset holds it.

    Args:
        path: a dataset (a folder, a URL or an open store) with all of CIFAR-10, in any splits.
        out: the folder or file to write; None only to check.
        format: ``batches``: the folder ``cifar-10-batches-py`` in ``out``, or ``out`` itself if it
            has this name; ``npz``: the file ``out``, see ``write_npz``. By default ``npz`` if
            ``out`` ends with ``.npz``, else ``batches``.
        check: ``cifar-10-python.tar.gz``: compare every image and label with it before writing.
        workers: number of threads; by default the number of cores that this process may use.
        progress: see ``jobs.Progress``.
        warn: called with each warning, such as duplicate images.

    Raises:
        OptionError: ``format`` is unknown or does not fit ``out``; or ``out`` and ``check`` are
            both None.
        StoreError: the dataset or the archive cannot be read.
        FormatError: an image is missing, or exists with different contents; or the archive is not
            CIFAR-10, or its content is different.
        OutputError: ``out`` cannot be written, or exists. No partial output is left.
    """
    if out is None and check is None:
        raise OptionError("give a path to write to, or an archive to check against")
    if out is None and format is not None:
        raise OptionError(
            f"format {format}: there is nothing to write; give a path, or leave it out"
        )
    check = None if check is None else local_path(check)
    target = None if out is None else _target(local_path(out), format)
    dataset = Dataset(path)
    reader = dataset.split(dataset.split_names)
    found = find_images(dataset, reader.columns, warn)
    other = None if check is None else read_cifar10(check)
    cifar = _decode(str(dataset.store), reader, found, workers, progress)
    if other is not None:
        _check_equal(cifar, other, location=str(dataset.store), archive=str(check))
    if target is not None:
        write = write_batches if target.name == FOLDER else write_npz
        write(cifar, target)
    return Restored(sum(map(len, cifar.sets.values())), target, other is not None)


def _target(out: Path, format: _Format | None) -> Path:  # noqa: A002
    """Return the file or folder to write."""
    is_npz = out.name.endswith(".npz")
    if format == "batches" and is_npz:
        raise OptionError(f"{out}: batches are a folder; give a different name, or --format npz")
    if format == "npz" and out.name == FOLDER:
        raise OptionError(f"{out}: is the name of the folder of batches; give a different name")
    target = out if is_npz or format == "npz" or out.name == FOLDER else out / FOLDER
    if os.path.lexists(target):
        raise OutputError(f"{target}: already exists; remove it, or write elsewhere")
    return target


# Finding


@dataclass(frozen=True, slots=True)
class FoundSet:
    """The N images of a set in a dataset, in their original order."""

    rows: NDArray[np.int64]
    """Rows of the reader, shape (N,)."""
    labels: NDArray[np.int64]
    """CIFAR-10's labels, 0 to 9, shape (N,)."""


def find_images(
    dataset: Dataset, columns: Columns, warn: Callable[[str], None]
) -> dict[str, FoundSet]:
    """Find the rows and labels of CIFAR-10's images, by set (``train`` and ``test``).

    Args:
        dataset: the dataset.
        columns: the columns of all its splits.
        warn: called with duplicates that are identical; the first one is used.

    Raises:
        FormatError: images are missing, or duplicates are different; lists them for both sets.
    """
    classes = dataset.manifest.classes
    cifar_label = np.array([CLASSES.index(c) if c in CLASSES else -1 for c in classes], np.int64)
    found: dict[str, FoundSet] = {}
    problems: list[str] = []
    for name, size in set_sizes().items():
        rows = np.flatnonzero(columns.origin == f"cifar10-{name}")
        rows = rows[np.argsort(columns.number[rows], kind="stable")]
        numbers, labels = columns.number[rows], cifar_label[columns.labels[rows]]
        others = [columns.keys[row] for row in rows[labels < 0].tolist()]
        problems += _lines(name, others, "in a class that CIFAR-10 does not have")
        strange = [columns.keys[row] for row in rows[(numbers < 0) | (numbers >= size)].tolist()]
        problems += _lines(name, strange, f"with a number outside 0 to {size - 1:,}")
        missing = np.setdiff1d(np.arange(size), numbers).tolist()
        problems += _lines(name, missing, "missing", f" of {size:,}")

        again = np.flatnonzero(np.diff(numbers) == 0)
        is_same = (labels[again] == labels[again + 1]) & (
            columns.pixel_hash[rows[again]] == columns.pixel_hash[rows[again + 1]]
        )
        unlike = [
            f"{columns.keys[rows[at]]} and {columns.keys[rows[at + 1]]}"
            for at in again[~is_same].tolist()
        ]
        problems += _lines(name, unlike, "duplicated with different pixels or classes")
        if is_same.any():
            same = [columns.keys[row] for row in rows[again[is_same] + 1].tolist()]
            for text in _lines(name, same, "duplicated with the same content; the first is used"):
                warn(f"{dataset.store}: {text}")
        is_first = np.append(True, np.diff(numbers) != 0)[: len(rows)]
        found[name] = FoundSet(rows[is_first], labels[is_first])
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise FormatError(
            str(dataset.store), f"does not hold all of CIFAR-10; nothing was written{listed}"
        )
    return found


def _lines(name: str, items: list[Any], what: str, of: str = "") -> Iterator[str]:
    """Yield a line with the number of items and the first of them, if there are any."""
    if items:
        yield f"{name}: {_count(len(items), of)} {what}: {few(items)}"


def _count(number: int, of: str = "") -> str:
    return f"{number:,}{of} image{'' if number == 1 and not of else 's'}"


# Decoding


def _decode(
    location: str,
    reader: SplitReader,
    found: dict[str, FoundSet],
    workers: int | None,
    progress: Progress,
) -> Cifar10:
    """Decode the images that were found; of a dataset of blocks, the blocks that hold any."""
    rows = np.concatenate([one.rows for one in found.values()])
    order = np.argsort(rows)  # the order of the shards
    rising = rows[order]
    out = np.empty((len(rows), *IMAGE_SHAPE), np.uint8)
    others: list[str] = []

    def keep(images: Images) -> None:
        if images.pixels.shape[1:] != IMAGE_SHAPE:
            height, width, _ = images.pixels.shape[1:]
            others.extend(f"{reader.key(row)} ({height}x{width})" for row in images.rows.tolist())
        else:
            out[order[np.searchsorted(rising, images.rows)]] = images.pixels

    try:
        map_images(reader, rising, keep, doing="read", workers=workers, progress=progress)
    except FormatError as error:
        raise FormatError(location, f"nothing was written: {error.reason}") from error
    if problems := list(_lines("CIFAR-10", sorted(others), "not of size 32x32")):
        raise FormatError(location, f"{problems[0]}; nothing was written")
    end_of_train = len(found["train"].rows)
    return Cifar10(
        train=CifarSet(out[:end_of_train], found["train"].labels),
        test=CifarSet(out[end_of_train:], found["test"].labels),
        label_names=CLASSES,
    )


def _check_equal(cifar: Cifar10, other: Cifar10, *, location: str, archive: str) -> None:
    problems: list[str] = []
    for name, one in cifar.sets.items():
        two = other.sets[name]
        is_same = (one.images.reshape(len(one), -1) == two.images.reshape(len(one), -1)).all(axis=1)
        problems += _lines(name, np.flatnonzero(~is_same).tolist(), "with different pixels")
        unlike = [
            f"{row} ({CLASSES[one.labels[row]]}, in the archive {CLASSES[two.labels[row]]})"
            for row in np.flatnonzero(one.labels != two.labels).tolist()
        ]
        problems += _lines(name, unlike, "with a different label")
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise FormatError(location, f"differs from {archive}; nothing was written{listed}")
