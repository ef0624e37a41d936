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
from cinic_shards.tree.assemble import assemble, raise_problems
from cinic_shards.tree.leftovers import Leftovers, leftovers_of
from cinic_shards.tree.members import Members
from cinic_shards.tree.names import is_image, left_out_part
from cinic_shards.tree.read_members import read_members
from cinic_shards.tree.records import ImageFiles, Records, ScanProgress, Source, Tree
from cinic_shards.tree.rules import (
    ClassFolder,
    Findings,
    Folders,
    class_path,
    find_folders,
    image_names,
    key_prefix,
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
                    end = at + size
                    # Some FUSE file systems return fewer bytes than there are.
                    while at < end and (num_read := file.readinto(view[at:end])):
                        at += num_read
                    if at < end:
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
    rest: Leftovers
    """The members that are not packed."""

    @property
    def containers(self) -> dict[str, tuple[int, int]]:
        return {self.root.name: self.state}

    def changes(self) -> Sequence[str]:
        if archive_state(self.root) == self.state:
            return ()
        return [f"{self.root.name}: changed since packing began"]

    def leftovers(self) -> Leftovers:
        return self.rest

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
        folder = spool_folder.absolute()
        with open_spool(folder) as spool, open_spool(folder) as inner:
            yield scan_archive(
                self.root, spool, inner, split_name=self.split_name, progress=progress
            )


def archive_state(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and time of last modification in nanoseconds; 0 if missing."""
    try:
        state = os.stat(path)
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def scan_archive(
    path: Path,
    spool: Spool,
    inner: Spool,
    *,
    split_name: str | None = None,
    progress: ScanProgress = lambda num_images: None,
) -> ArchiveTree:
    """Find the images in an archive, and check their names and sizes, as ``scan_tree`` does.

    A folder above the splits that holds all images is not part of their names.

    Args:
        path: the archive.
        spool: receives the images of a compressed archive; it must stay open while the tree
            is in use.
        inner: receives an archive that is in this archive, and must stay open as well.
        split_name: if given, the archive holds ``<class>/*.png``, all of this split.
        progress: called with the number of images found since the last call.

    Raises:
        TreeError: the archive cannot be packed; lists every problem with its path.
        OutputError: there is no space for a spool.
    """
    state = archive_state(path)
    members = read_members(path, spool, inner, progress)
    beside = list(members.strays)
    findings = Findings(members.problems, members.strays)
    top, paths = _below_top(members, 2 if split_name is None else 1)
    in_archive = _ArchiveFolders(path, members, top, paths)
    if top:
        outside = [file for file in members.files if not file.startswith(f"{top}/")]
        findings.strays += dict.fromkeys(map(_shortened, outside))
    split_names, folders = find_folders(in_archive, split_name, findings)
    found = [_folder(in_archive, names, split_name, paths, members) for names in folders]

    file = members.file.absolute()

    def records(
        files: list[str],
        labels: NDArray[np.int32],
        sizes: NDArray[np.int64],
        modified: NDArray[np.int64],
    ) -> ArchiveRecords:
        offsets = np.array([members.files[paths[name]].offset for name in files], np.int64)
        prefix = key_prefix(split_name)
        return ArchiveRecords(files, labels, sizes, modified, file, offsets, prefix=prefix)

    raise_problems(path, split_name, found, findings, records)
    tree = assemble(split_names, folders, found, findings.strays, records)
    classes, splits, warnings = tree
    if top:
        warnings = (f"all images are in {top}/, which is not part of their names", *warnings)
    packed = frozenset(paths[name] for of in splits.values() for name in of.files)
    rest = leftovers_of([*members.files, *beside], members.folders, packed)
    return ArchiveTree(path, classes, splits, (*members.warnings, *warnings), state, rest)


def _below_top(members: Members, num_levels: int) -> tuple[str, dict[str, str]]:
    """Find the folder that holds all images and is above those of splits and classes.

    Args:
        members: the archive's members.
        num_levels: levels of folders below it: 2 for splits and classes, 1 for classes.

    Returns:
        The folder, or ""; and for each file in it: path below it -> path in the archive.
    """
    images = [file for file in members.files if is_image(file)]
    top = ""
    if images:
        shared = os.path.commonpath([min(images), max(images)])
        num_above = min(file.count("/") for file in images) - num_levels
        # The last two folders of train/cat/x.png are its split and class.
        top = "/".join(shared.split("/")[: max(0, num_above)])
    if not top:
        return "", {file: file for file in members.files}
    start = len(top) + 1
    return top, {file[start:]: file for file in members.files if file.startswith(f"{top}/")}


def _shortened(path: str) -> str:
    """Return a file's path, or that of the folder above it that is left out."""
    part = left_out_part(path)
    return f"{part}/" if part not in ("", path) else path


class _ArchiveFolders(Folders):
    """The folders of a tree in an archive."""

    def __init__(self, path: Path, members: Members, top: str, files: dict[str, str]) -> None:
        """List all folders.

        Args:
            path: the archive.
            members: its members; gets a problem with each path that is both a file and a folder.
            top: the folder that holds the tree, or "".
            files: path below ``top`` of each file, as the keys.
        """
        self.root = str(path)
        self._names: dict[str, dict[str, bool]] = {"": {}}
        self._problems = members.problems
        for folder in sorted(members.folders):
            if not top:
                self._add(folder, is_folder=True)
            elif folder.startswith(f"{top}/"):
                self._add(folder[len(top) + 1 :], is_folder=True)
        for file in files:
            self._add(file, is_folder=False)

    def _add(self, path: str, *, is_folder: bool) -> None:
        above, _, name = path.rpartition("/")
        if above and above not in self._names:
            self._add(above, is_folder=True)
        names = self._names.setdefault(above, {})
        if names.setdefault(name, is_folder) != is_folder:
            self._problems.append(f"{path}: both a file and a folder; create the archive again")

    def names(self, path: str) -> dict[str, bool]:
        return self._names.get(path, {})


def _folder(
    folders: Folders,
    names: tuple[str, str],
    split_name: str | None,
    paths: dict[str, str],
    members: Members,
) -> ClassFolder:
    """List a class's folder, and check the names and sizes in it."""
    folder = ClassFolder()
    base = class_path(*names, split_name)
    is_folder = folders.names(base)
    for name in image_names(base, is_folder, folders, folder):
        path = f"{base}/{name}"
        if is_folder[name]:
            folder.problems.append(f"{path}: not an ordinary file")
        else:
            size, modified, _ = members.files[paths[path]]
            folder.add_image(path, size, modified)
    return folder
