"""A source of images: an archive of a tree, read as if it were unpacked."""

import errno
import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import StoreError
from cinic_shards.tree.members import Members, is_image, read_members
from cinic_shards.tree.records import ImageFiles, Records, ScanProgress, Source, Tree
from cinic_shards.tree.rules import (
    ClassFolder,
    assemble,
    find_folders,
    image_names,
    key_problem,
    pick_folders,
    raise_problems,
)
from cinic_shards.tree.spool import Spool, open_spool


@dataclass(frozen=True, slots=True)
class ArchiveRecords(Records):
    """The images of one split, which are all in one file."""

    file: Path
    """Absolute path of the archive or a spool."""
    offsets: NDArray[np.int64]
    """Offset of each image in the file, shape (N,)."""

    def take(self, rows: NDArray[np.int64]) -> Self:
        return replace(Records.take(self, rows), offsets=self.offsets[rows])

    def read(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        view = buffer.data
        problems = {}
        files = zip(
            self.offsets[start:stop].tolist(),
            starts.tolist(),
            self.sizes[start:stop].tolist(),
            strict=True,
        )
        try:
            with open(self.file, "rb", buffering=0) as file:
                for row, (offset, at, size) in enumerate(files):
                    file.seek(offset)
                    if file.readinto(view[at : at + size]) != size:
                        problems[row] = "changed while it was packed; run again without changing it"
        except OSError as error:
            raise StoreError(
                str(self.file),
                f"cannot be read on {platform.node()}: {error.strerror}; workers on different "
                "machines need this file under the same path",
            ) from error
        return problems


class ArchivedFiles(ImageFiles):
    """The files of one split in an archive."""

    def __init__(self, archive: Path, records: Records | None) -> None:
        self._archive = archive
        self._records = records

    def __str__(self) -> str:
        return str(self._archive)

    @cached_property
    def _rows(self) -> dict[str, int]:
        keys = [] if self._records is None else self._records.keys
        return {key: row for row, key in enumerate(keys)}

    def read(self, key: str) -> bytes:
        row = self._rows.get(key)
        if row is None or self._records is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        data = np.empty(self._records.sizes[row], np.uint8)
        if problems := self._records.read(row, row + 1, data, np.zeros(1, np.int64)):
            raise OSError(errno.EIO, problems[0])
        return data.tobytes()


@dataclass(frozen=True, slots=True)
class ArchiveTree(Tree):
    """A tree in an archive; ``root`` is the archive."""

    state: tuple[int, int]
    """The archive's size in bytes, and the time of its last modification in nanoseconds."""

    @property
    def containers(self) -> dict[str, tuple[int, int]]:
        return {self.root.name: self.state}

    def changes(self) -> Sequence[str]:
        if archive_state(self.root) == self.state:
            return ()
        return [f"{self.root.name}: changed since packing began"]

    def image_files(self, split: str) -> ImageFiles:
        return ArchivedFiles(self.root, self.splits.get(split))


class ArchiveSource(Source):
    """A tar, possibly compressed, or a zip of a folder ``<split>/<class>/*.png``."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        return os.path.isfile(root)  # Path.is_file raises if a name is too long

    @contextmanager
    def open(
        self, *, executor: Executor, spool_folder: Path, progress: ScanProgress
    ) -> Iterator[Tree]:
        with open_spool(spool_folder.absolute()) as spool:
            yield scan_archive(self.root, spool, progress=progress)


def archive_state(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and time of last modification in nanoseconds; 0 if missing."""
    try:
        state = os.stat(path)
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def scan_archive(
    path: Path, spool: Spool, *, progress: ScanProgress = lambda num_images: None
) -> ArchiveTree:
    """Find the images in an archive, and check their names and sizes, as ``scan_tree`` does.

    A folder above the splits that holds all images is not part of their names.

    Args:
        path: the archive.
        spool: receives the images of a compressed archive; it must stay open while the tree
            is in use.
        progress: called with the number of images found since the last call.

    Raises:
        TreeError: the archive cannot be packed; lists every problem with its path.
        OutputError: there is no space for the spool.
    """
    state = archive_state(path)
    members = read_members(path, spool, progress)
    top, paths = _below_top(members)
    contents = _contents(paths, members, top)
    problems = members.problems
    strays = [file for file in members.files if top and not file.startswith(f"{top}/")]
    split_names, folders = find_folders(
        lambda below: pick_folders(contents.get(below, {}), below, problems, strays), problems
    )
    found = [_folder(contents, f"{split}/{name}", paths, members) for split, name in folders]

    file = members.file.absolute()

    def records(
        files: list[str],
        labels: NDArray[np.int32],
        sizes: NDArray[np.int64],
        modified: NDArray[np.int64],
    ) -> ArchiveRecords:
        offsets = np.array([members.files[paths[name]][2] for name in files], np.int64)
        return ArchiveRecords(files, labels, sizes, modified, file, offsets)

    raise_problems(path, found, problems, records)
    classes, splits, warnings = assemble(split_names, folders, found, strays, records)
    if top:
        warnings = (f"all images are in {top}/, which is not part of their names", *warnings)
    return ArchiveTree(path, classes, splits, warnings, state)


def _below_top(members: Members) -> tuple[str, dict[str, str]]:
    """Find the folder above the splits that holds all images.

    Returns:
        The folder, or ""; and for each file in it: path below it -> path in the archive.
    """
    images = [file for file in members.files if is_image(file)]
    top = ""
    if images:
        shared = os.path.commonpath([min(images), max(images)])
        num_above = min(file.count("/") for file in images) - 2
        # The last two folders of train/cat/x.png are its split and class.
        top = "/".join(shared.split("/")[: max(0, num_above)])
    if not top:
        return "", {file: file for file in members.files}
    start = len(top) + 1
    return top, {file[start:]: file for file in members.files if file.startswith(f"{top}/")}


def _contents(paths: dict[str, str], members: Members, top: str) -> dict[str, dict[str, bool]]:
    """List each folder: folder -> name -> True if the name is a folder's."""
    contents: dict[str, dict[str, bool]] = {"": {}}

    def add(path: str, is_folder: bool) -> None:
        above, _, name = path.rpartition("/")
        if above and above not in contents:
            add(above, True)
        names = contents.setdefault(above, {})
        if names.setdefault(name, is_folder) != is_folder:
            members.problems.append(f"{path}: both a file and a folder; create the archive again")

    for folder in sorted(members.folders):
        if not top:
            add(folder, True)
        elif folder.startswith(f"{top}/"):
            add(folder[len(top) + 1 :], True)
    for path in paths:
        add(path, False)
    return contents


def _folder(
    contents: dict[str, dict[str, bool]], base: str, paths: dict[str, str], members: Members
) -> ClassFolder:
    """List a class's folder, and check the names and sizes in it."""
    folder = ClassFolder()
    if problem := key_problem(base):
        folder.problems.append(f"{base}/: {problem}")
        return folder
    names = contents.get(base, {})
    is_folder = {f"{base}/{name}": value for name, value in names.items()}
    for name in image_names(base, sorted(names), is_folder.__getitem__, folder):
        path = f"{base}/{name}"
        if is_folder[path]:
            folder.problems.append(f"{path}: not an ordinary file")
        else:
            size, modified, _ = members.files[paths[path]]
            folder.add(path, size, modified)
    return folder
