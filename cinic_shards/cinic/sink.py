"""Write PNGs as files of a tree or members of one tar, in a work folder.

A tree gets its final name when it is complete.
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
"""Space of a 32x32 PNG on most disks: a block. In a tar it takes less."""

TREE = "tree"
TAR = "images.tar"
_LOCK = "lock"
"""Content of the work folder."""


@dataclass(frozen=True, slots=True)
class PixelsJob:
    """Images to be written as they are."""

    root: str | None
    """The folder of the tree; None to make members of a tar."""
    images: NDArray[np.uint8]
    """uint8, shape (N, 32, 32, 3)."""
    rows: tuple[int, ...]
    """Positions of the images to write."""
    keys: tuple[str, ...]
    """Their keys, ``split/class/stem``."""


@dataclass(frozen=True, slots=True)
class PhotosJob:
    """Photos of one synset's tar, to be decoded, shrunk and written."""

    root: str | None
    """The folder of the tree; None to make members of a tar."""
    path: str
    """The synset's tar."""
    offsets: NDArray[np.int64]
    """Each photo's byte offset in the tar, shape (N,)."""
    sizes: NDArray[np.int64]
    """Each photo's size in bytes, shape (N,)."""
    keys: tuple[str, ...]
    """Each photo's key, ``split/class/stem``."""


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a job."""

    keys: tuple[str, ...]
    """The job's keys."""
    failed: dict[str, str] = field(default_factory=dict)
    """Key -> why the image could not be written; all others were written."""
    notes: dict[str, str] = field(default_factory=dict)
    """Key -> a remark on a written image, such as its photo's format."""
    members: list[bytes] = field(default_factory=list)
    """Members for the tar; cleared when they are written, or all would stay in memory."""

    def put(self, root: str | None, key: str, pixels: NDArray[np.uint8]) -> None:
        """Write one image: a file of the tree, or a member of the tar.

        Args:
            root: the folder of the tree, or None.
            key: ``split/class/stem``.
            pixels: uint8, shape (32, 32, 3).
        """
        png = encode_png(pixels)
        if root is None:
            self.members.append(fmt.one_member(f"{key}.png", png))
            return
        # Buffered: a plain write may write only a part of the bytes, without an error.
        with open(f"{root}/{key}.png", "xb") as file:
            file.write(png)


def write_pixels(job: PixelsJob) -> Written:
    """Write images. Runs in any process."""
    written = Written(job.keys)
    for row, key in zip(job.rows, job.keys, strict=True):
        written.put(job.root, key, job.images[row])
    return written


def write_photos(job: PhotosJob) -> Written:
    """Decode, shrink and write photos. Runs in any process.

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
    """The output for images: files of a tree, or members of one tar."""

    def __init__(self, root: str | None, tar: BinaryIO | None) -> None:
        self.root = root
        """The folder of the tree; None for a tar."""
        self._tar = tar

    def take(self, written: Written) -> None:
        """Write the members that a job returned, and clear them."""
        if self._tar is not None:
            self._tar.writelines(written.members)
            written.members.clear()


@contextmanager
def open_tar(path: Path) -> Iterator[ImageSink]:
    """Open a sink that writes one tar, which is complete when the context ends.

    The file's modification time is always 1970: after a killed run, packing keeps the finished
    shards only if the rebuilt tar has the same size and time.
    """
    with open(path, "xb") as file:
        yield ImageSink(None, file)
        file.write(fmt.TAR_END)
    os.utime(path, (0, 0))


@contextmanager
def open_work_folder(work: Path) -> Iterator[Path]:
    """Make a folder to build in; it is deleted, with its content, when the context ends.

    A folder that a killed process left is cleared and used again.

    Args:
        work: the folder.

    Raises:
        OutputError: it cannot be made, another process is using it, or it holds other files.
    """
    lock = None
    try:
        if os.path.lexists(work) and not _is_ours(work):
            raise OutputError(f"{work}: needed as a work folder, but holds other files; move them")
        work.mkdir(parents=True, exist_ok=True)
        lock = lock_file(work / _LOCK)
        if lock is None:
            raise OutputError(f"{work}: another process is building there")
        _clear(work)
        yield work
    except OSError as error:
        hint = "; free some space or build elsewhere" if error.errno == errno.ENOSPC else ""
        raise OutputError(f"{error.filename or work}: {error.strerror}{hint}") from error
    finally:
        if lock is not None:
            with suppress(OSError):
                _clear(work)
                shutil.rmtree(work)
            lock.close()


def _is_ours(work: Path) -> bool:
    if work.is_symlink() or not work.is_dir():
        return False
    names = set(os.listdir(work))
    return not names or _LOCK in names <= {_LOCK, TREE, TAR}


def _clear(work: Path) -> None:
    """Delete all but the lock: if this is interrupted, the lock still shows whose folder it is."""
    if (work / TREE).exists():
        shutil.rmtree(work / TREE)
    (work / TAR).unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Check, before anything is written, that the disk has enough space.

    Args:
        folder: the output's folder; it need not exist yet.
        needed: about how many bytes the output takes.

    Raises:
        OutputError: less than that is free.
    """
    existing = next(one for one in (folder, *folder.parents) if one.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OutputError(
            f"{existing}: {free / 1e6:,.0f} MB free, about {needed / 1e6:,.0f} MB needed; free "
            "some space or build elsewhere"
        )
