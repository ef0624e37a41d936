"""CIFAR-10 out of a packed CINIC-10: all 60,000 images, in their original order."""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.map_images import Images, map_images
from cinic_shards.read.split import SplitReader
from cinic_shards.store import StoreLike

FORMATS = ("batches", "npz")


@dataclass(frozen=True, slots=True)
class Restored:
    """What ``restore_cifar10`` did."""

    num_images: int
    written: Path | None
    """The folder or file; None where none was asked for."""
    is_checked: bool
    """Whether every image and label was compared with the archive's, and found equal."""


def restore_cifar10(
    path: StoreLike,
    out: str | os.PathLike[str] | None = None,
    *,
    format: str | None = None,  # noqa: A002 - as the command's option is called
    check: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Restored:
    """Write CIFAR-10 as its authors publish it, or prove that a dataset holds it.

    Args:
        path: where a dataset lies that holds all of CIFAR-10, in whatever splits.
        out: where to write it; None only to check.
        format: ``batches``: the folder ``cifar-10-batches-py`` in ``out``; ``npz``: a file of the
            arrays ``x_train``, ``y_train``, ``x_test``, ``y_test`` and ``label_names``. By default
            ``npz`` where ``out`` ends with it.
        check: ``cifar-10-python.tar.gz``: compare every image and label with it before writing.
        workers: threads; by default the cores that this process may use.
        progress: see ``jobs.Progress``.
        warn: called with each thing that a user should know.

    Raises:
        OptionError: an option cannot be.
        StoreError: the dataset or the archive cannot be read.
        FormatError: an image is missing, or there with several contents; or the archive is not
            CIFAR-10, or another one.
        OutputError: ``out`` cannot be written, or is there. Nothing is left half-made.
    """
    if out is None and check is None:
        raise OptionError("give a place to write to, or an archive to check against")
    target = None if out is None else _target(Path(out), format)
    dataset = Dataset(path)
    reader = dataset.split(dataset.split_names)
    found = find_images(dataset, reader.columns, warn)
    other = None if check is None else read_cifar10(check)
    cifar = _decode(str(dataset.store), reader, found, workers, progress)
    if other is not None:
        _refuse_another(cifar, other, place=str(dataset.store), archive=str(check))
    if target is not None:
        write = write_batches if target.name == FOLDER else write_npz
        write(cifar, target)
    return Restored(sum(map(len, cifar.sets.values())), target, other is not None)


def _target(out: Path, format: str | None) -> Path:  # noqa: A002
    """The file or folder to write."""
    is_npz = out.name.endswith(".npz")
    if format not in (None, *FORMATS):
        raise OptionError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    if format == "batches" and is_npz:
        raise OptionError(f"{out}: batches are a folder; give another name, or --format npz")
    if format == "npz" and out.name == FOLDER:
        raise OptionError(f"{out}: is what the folder of batches is called; give another name")
    target = out if is_npz or format == "npz" or out.name == FOLDER else out / FOLDER
    if os.path.lexists(target):
        raise OutputError(f"{target}: is there already; remove it, or write elsewhere")
    return target


# Finding


@dataclass(frozen=True, slots=True)
class FoundSet:
    """Where a set's images are; N of them, in their original order."""

    rows: NDArray[np.int64]
    """Rows of the reader, shape (N,)."""
    labels: NDArray[np.int64]
    """CIFAR-10's labels, shape (N,)."""


def find_images(
    dataset: Dataset, columns: Columns, warn: Callable[[str], None]
) -> dict[str, FoundSet]:
    """Where each image of CIFAR-10 is, and its label, by set.

    Raises:
        FormatError: images are missing, or there twice and not alike; tells which, of both sets.
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
        problems += _told(name, others, "of a class that CIFAR-10 does not have")
        strange = [columns.keys[row] for row in rows[(numbers < 0) | (numbers >= size)].tolist()]
        problems += _told(name, strange, f"with a number that is not below {size:,}")
        missing = np.setdiff1d(np.arange(size), numbers).tolist()
        problems += _told(name, missing, "missing", f" of {size:,}")

        again = np.flatnonzero(np.diff(numbers) == 0)
        is_same = (labels[again] == labels[again + 1]) & (
            columns.pixel_hash[rows[again]] == columns.pixel_hash[rows[again + 1]]
        )
        unlike = [
            f"{columns.keys[rows[at]]} and {columns.keys[rows[at + 1]]}"
            for at in again[~is_same].tolist()
        ]
        problems += _told(name, unlike, "there twice, with other pixels or another class")
        if is_same.any():
            same = [columns.keys[row] for row in rows[again[is_same] + 1].tolist()]
            for text in _told(name, same, "there twice, alike: one of each is taken"):
                warn(f"{dataset.store}: {text}")
        is_first = np.append(True, np.diff(numbers) != 0)[: len(rows)]
        found[name] = FoundSet(rows[is_first], labels[is_first])
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise FormatError(str(dataset.store), f"not all of CIFAR-10; nothing was written{listed}")
    return found


def _told(name: str, items: list[Any], what: str, of: str = "") -> Iterator[str]:
    """A line for each kind of problem: how many, and the first of them."""
    if items:
        yield f"{name}: {_count(len(items), of)} {what}: {few(items)}"


def _count(number: int, of: str = "") -> str:
    return f"{number:,}{of} image{'' if number == 1 and not of else 's'}"


# Decoding


def _decode(
    place: str,
    reader: SplitReader,
    found: dict[str, FoundSet],
    workers: int | None,
    progress: Progress,
) -> Cifar10:
    """Decode what was found: of PNGs only these, of blocks those that hold any."""
    rows = np.concatenate([one.rows for one in found.values()])
    order = np.argsort(rows)  # that of the shards
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
        raise FormatError(place, f"nothing was written: {error.reason}") from error
    if problems := list(_told("CIFAR-10", sorted(others), "of another size than 32x32")):
        raise FormatError(place, f"{problems[0]}; nothing was written")
    end_of_train = len(found["train"].rows)
    return Cifar10(
        train=CifarSet(out[:end_of_train], found["train"].labels),
        test=CifarSet(out[end_of_train:], found["test"].labels),
        label_names=CLASSES,
    )


def _refuse_another(cifar: Cifar10, other: Cifar10, *, place: str, archive: str) -> None:
    problems: list[str] = []
    for name, one in cifar.sets.items():
        two = other.sets[name]
        is_same = (one.images.reshape(len(one), -1) == two.images.reshape(len(one), -1)).all(axis=1)
        problems += _told(name, np.flatnonzero(~is_same).tolist(), "with other pixels")
        unlike = [
            f"{row} ({CLASSES[one.labels[row]]}, there {CLASSES[two.labels[row]]})"
            for row in np.flatnonzero(one.labels != two.labels).tolist()
        ]
        problems += _told(name, unlike, "with another label")
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise FormatError(place, f"not what {archive} holds; nothing was written{listed}")
