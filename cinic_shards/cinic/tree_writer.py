"""Builds a tree of PNGs beside its place: jobs that write its images, and the folder they write to.

Nothing of a tree is seen under its name until all of it is there.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinic_shards.cinic.photos import read_photos, shrink_photo
from cinic_shards.codec import encode_png
from cinic_shards.errors import OutputError
from cinic_shards.store import lock_file

FILE_BYTES = 4096
"""What a PNG of 32x32 takes on most disks: a block."""

_DATE = 315_532_800 * 10**9
"""Of every file, in nanoseconds: 1980, the first that a zip file can state. A packing job that was
killed goes on only where the files it reads are as old as they were."""

_LOCK = "lock"
_TREE = "tree"


@dataclass(frozen=True, slots=True)
class PixelsJob:
    """Images that are written as they are."""

    root: str
    images: NDArray[np.uint8]
    """uint8, shape (N, 32, 32, 3)."""
    rows: tuple[int, ...]
    """Those of them to write."""
    keys: tuple[str, ...]
    """Of each row: ``split/class/stem``."""


@dataclass(frozen=True, slots=True)
class PhotosJob:
    """Photos of one synset's tar, to be decoded, shrunk and written."""

    root: str
    path: str
    """Of the tar."""
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    keys: tuple[str, ...]
    """Of each photo: ``split/class/stem``."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a job did."""

    keys: tuple[str, ...]
    """Of the job."""
    failed: dict[str, str]
    """Key -> why it could not be written; the others were."""
    notes: dict[str, str]
    """Key -> what to know of it."""


def write_pixels(job: PixelsJob) -> Written:
    """Write images. Runs in any process."""
    for row, key in zip(job.rows, job.keys, strict=True):
        _write(job.root, key, job.images[row])
    return Written(job.keys, {}, {})


def write_photos(job: PhotosJob) -> Written:
    """Write what can be decoded. Runs in any process.

    Raises:
        StoreError: the tar cannot be read.
    """
    failed, notes = {}, {}
    for key, data in zip(job.keys, read_photos(job.path, job.offsets, job.sizes), strict=True):
        pixels, note = shrink_photo(data)
        if pixels is None:
            failed[key] = note
            continue
        _write(job.root, key, pixels)
        if note:
            notes[key] = note
    return Written(job.keys, failed, notes)


def _write(root: str, key: str, pixels: NDArray[np.uint8]) -> None:
    path = f"{root}/{key}.png"
    with open(path, "xb", buffering=0) as file:
        file.write(encode_png(pixels))
    os.utime(path, ns=(_DATE, _DATE))


@contextmanager
def open_workshop(place: Path) -> Iterator[Path]:
    """A folder to build a tree in, which goes with all that is in it when the context ends.

    One that a killed process left is made anew; one that is in use, or is not ours, is refused.

    Args:
        place: what to call the workshop.

    Raises:
        OutputError: it cannot be made.
    """
    lock = None
    try:
        if os.path.lexists(place) and not (place / _LOCK).is_file():
            raise OutputError(f"{place}: holds other files, is needed to build in; move it away")
        place.mkdir(parents=True, exist_ok=True)
        lock = lock_file(place / _LOCK)
        if lock is None:
            raise OutputError(f"{place}: another process is building there")
        tree = place / _TREE
        if tree.exists():
            shutil.rmtree(tree)
        tree.mkdir()
        yield tree
    except OSError as error:
        hint = "; free some space or build elsewhere" if error.errno == errno.ENOSPC else ""
        raise OutputError(f"{error.filename or place}: {error.strerror}{hint}") from error
    finally:
        if lock is not None:
            # The lock last: where this is stopped, it still says whose folder that is.
            shutil.rmtree(place / _TREE, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)
            lock.close()


def check_space(folder: Path, needed: int) -> None:
    """Refuse before writing what cannot fit.

    Args:
        folder: where it goes; it, or one above it, is there.
        needed: about so many bytes.

    Raises:
        OutputError: less than that is free.
    """
    there = next(one for one in (folder, *folder.parents) if one.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OutputError(
            f"{there}: {free / 1e6:,.0f} MB free, about {needed / 1e6:,.0f} MB are needed; free "
            "some space or build elsewhere"
        )
