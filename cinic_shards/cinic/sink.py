"""PNGs by workers -> files of a tree, or one tar of them; and the folder they lie in for a while.

Nothing of a tree is seen under its name until all of it is there.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.cinic.photos import read_photos, shrink_photo
from cinic_shards.codec import encode_png
from cinic_shards.errors import OutputError
from cinic_shards.store import lock_file

FILE_BYTES = 4096
"""What a PNG of 32x32 takes on most disks: a block. In a tar it is less."""

TREE = "tree"
TAR = "images.tar"
_LOCK = "lock"
"""What lies in the folder that is built in."""


@dataclass(frozen=True, slots=True)
class PixelsJob:
    """Images that are written as they are."""

    root: str | None
    """The folder of the tree; None where they are to be members of a tar."""
    images: NDArray[np.uint8]
    """uint8, shape (N, 32, 32, 3)."""
    rows: tuple[int, ...]
    """Those of them to write."""
    keys: tuple[str, ...]
    """Of each row: ``split/class/stem``."""


@dataclass(frozen=True, slots=True)
class PhotosJob:
    """Photos of one synset's tar, to be decoded, shrunk and written."""

    root: str | None
    """The folder of the tree; None where they are to be members of a tar."""
    path: str
    """Of the synset's tar."""
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    keys: tuple[str, ...]
    """Of each photo: ``split/class/stem``."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a job did."""

    keys: tuple[str, ...]
    """Of the job."""
    failed: dict[str, str] = field(default_factory=dict)
    """Key -> why it could not be written; the others were."""
    notes: dict[str, str] = field(default_factory=dict)
    """Key -> what to know of it."""
    members: list[bytes] = field(default_factory=list)
    """For a tar; taken out when they are there, or all would stay in memory."""

    def put(self, root: str | None, key: str, pixels: NDArray[np.uint8]) -> None:
        """Write one image."""
        png = encode_png(pixels)
        if root is None:
            self.members.append(fmt.one_member(f"{key}.png", png))
            return
        with open(f"{root}/{key}.png", "xb", buffering=0) as file:
            file.write(png)


def write_pixels(job: PixelsJob) -> Written:
    """Write images. Runs in any process."""
    written = Written(job.keys)
    for row, key in zip(job.rows, job.keys, strict=True):
        written.put(job.root, key, job.images[row])
    return written


def write_photos(job: PhotosJob) -> Written:
    """Write what can be decoded. Runs in any process.

    Raises:
        StoreError: the tar cannot be read.
    """
    written = Written(job.keys)
    for key, data in zip(job.keys, read_photos(job.path, job.offsets, job.sizes), strict=True):
        pixels, note = shrink_photo(data)
        if pixels is None:
            written.failed[key] = note
            continue
        written.put(job.root, key, pixels)
        if note:
            written.notes[key] = note
    return written


class ImageSink:
    """Where images go: files of a tree, or members of one tar."""

    def __init__(self, root: str | None, tar: BinaryIO | None) -> None:
        self.root = root
        """The folder of the tree; None for a tar."""
        self._tar = tar

    def take(self, written: Written) -> None:
        """Write the members that a job gave, and forget them."""
        if self._tar is not None:
            self._tar.writelines(written.members)
            written.members.clear()


@contextmanager
def open_tar(path: Path) -> Iterator[ImageSink]:
    """A sink of all images in one tar, which is whole when the context ends.

    Its date is always the same, 1970: where packing was killed, the same command goes on with the
    finished shards, of a tar that is as large and as old.
    """
    with open(path, "xb") as file:
        yield ImageSink(None, file)
        file.write(fmt.TAR_END)
    os.utime(path, (0, 0))


@contextmanager
def open_workshop(place: Path) -> Iterator[Path]:
    """A folder to build in, which goes with all that is in it when the context ends.

    One that a killed process left is made anew; one that is in use, or is not ours, is refused.

    Args:
        place: what to call the workshop.

    Raises:
        OutputError: it cannot be made.
    """
    lock = None
    try:
        if os.path.lexists(place) and not _is_ours(place):
            raise OutputError(f"{place}: is needed to build in, but holds something; move it away")
        place.mkdir(parents=True, exist_ok=True)
        lock = lock_file(place / _LOCK)
        if lock is None:
            raise OutputError(f"{place}: another process is building there")
        _clear(place)
        yield place
    except OSError as error:
        hint = "; free some space or build elsewhere" if error.errno == errno.ENOSPC else ""
        raise OutputError(f"{error.filename or place}: {error.strerror}{hint}") from error
    finally:
        if lock is not None:
            with suppress(OSError):
                _clear(place)
                shutil.rmtree(place)
            lock.close()


def _is_ours(place: Path) -> bool:
    if place.is_symlink() or not place.is_dir():
        return False
    names = set(os.listdir(place))
    return not names or _LOCK in names <= {_LOCK, TREE, TAR}


def _clear(workshop: Path) -> None:
    """Delete all but the lock: where this is stopped, it still says whose folder that is."""
    if (workshop / TREE).exists():
        shutil.rmtree(workshop / TREE)
    (workshop / TAR).unlink(missing_ok=True)


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
