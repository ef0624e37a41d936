"""Compare a dataset with a tree: the same images, and no others."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.check.faults import Fault, Location
from cinic_shards.errors import DecodeError
from cinic_shards.tree.archive import ArchivedImages, ArchiveTree, scan_archive
from cinic_shards.tree.folder import scan_tree
from cinic_shards.tree.members import is_archive
from cinic_shards.tree.records import Tree
from cinic_shards.tree.rules import PNG_SUFFIXES
from cinic_shards.tree.spool import open_spool

TreeImages = Path | ArchivedImages
"""Where the images of a split are read from: a tree's folder, or an archive."""


@contextmanager
def open_tree(against: str | os.PathLike[str], executor: Executor) -> Iterator[Tree]:
    """A tree to compare with: a folder, or an archive as long as this is open."""
    if is_archive(against):
        with open_spool(Path(tempfile.gettempdir())) as spool:
            yield scan_archive(Path(against), spool)
    else:
        yield scan_tree(against, executor=executor)


def images_of(tree: Tree, split: str) -> TreeImages:
    """Where to read a split's images from, in any process."""
    if isinstance(tree, ArchiveTree):
        return ArchivedImages(tree, split)
    return tree.root.resolve()


def unpacked_files(tree: Tree, packed: set[str]) -> Iterator[Fault]:
    """A fault for each image of a tree whose key is not packed."""
    root = tree.root.resolve()
    for records in tree.splits.values():
        for file, key in zip(records.files, records.keys, strict=True):
            if key not in packed:
                problem = f"in {root}, not in the dataset, expected in both; pack the tree again"
                yield Fault(Location(file), "tree", problem)


def tree_problem(
    images: TreeImages, key: str, sample: Any, compare: Callable[[Any, bytes, str], str]
) -> str:
    """What a sample and its file in a tree differ in, or an empty string.

    Args:
        images: where the file is.
        key: the sample's.
        sample: its PNG or its pixels, whichever ``compare`` takes.
        compare: ``bytes_problem`` or ``pixels_problem``.
    """
    path = f"{images}/{key}.png"
    try:
        return compare(sample, _read_png(images, key), path)
    except OSError as error:
        return f"{path}: {error.strerror}"


def bytes_problem(png: bytes, file: bytes, path: str) -> str:
    """Where a PNG and a file's bytes begin to differ, or an empty string."""
    if png == file:
        return ""
    shorter = min(len(file), len(png))
    at = next((at for at in range(shorter) if file[at] != png[at]), shorter)
    return f"its {len(png)} bytes differ from byte {at} on from the {len(file)} of {path}"


def pixels_problem(image: NDArray[np.uint8], file: bytes, path: str) -> str:
    """Whether an image, uint8 (H, W, 3), has other pixels than a file; or an empty string."""
    from cinic_shards.codec import Payloads, decode_png

    payload = Payloads.in_buffer(
        np.frombuffer(file, np.uint8), np.array([0]), np.array([len(file)])
    )
    out = np.empty((1, *image.shape), np.uint8)
    try:
        decode_png(payload, out)
    except DecodeError as error:
        return f"{path}: {error.reason}"
    return "" if np.array_equal(out[0], image) else f"its pixels differ from those of {path}"


def _read_png(images: TreeImages, key: str) -> bytes:
    """The file of this key, and one of the suffixes."""
    if isinstance(images, ArchivedImages):
        return images.read(key)
    for suffix in PNG_SUFFIXES:
        path = f"{images}/{key}{suffix}"
        with suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
            return file.read()
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
