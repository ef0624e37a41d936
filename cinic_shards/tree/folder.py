"""A source of images: a folder ``<split>/<class>/*.png``."""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import TreeError
from cinic_shards.jobs import make_executor
from cinic_shards.tree.assemble import assemble, raise_problems
from cinic_shards.tree.leftovers import Leftovers, leftovers_of_folder
from cinic_shards.tree.listing import changes, list_tree
from cinic_shards.tree.records import ImageFiles, Records, ScanProgress, Source, Tree
from cinic_shards.tree.rules import (
    PNG_SUFFIXES,
    ClassFolder,
    Findings,
    Folders,
    class_path,
    find_folders,
    image_names,
    key_prefix,
)

# Without O_NONBLOCK, opening a named pipe would block. O_BINARY exists only on Windows.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
J = TypeVar("J")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FolderRecords(Records):
    """The images of one split, one file each."""

    root: str
    """The tree's absolute path."""

    def read(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        view = buffer.data
        problems = {}
        files = zip(
            self.files[start:stop],
            starts.tolist(),
            self.sizes[start:stop].tolist(),
            self.modified[start:stop].tolist(),
            strict=True,
        )
        for row, (path, at, size, modified) in enumerate(files):
            try:
                descriptor = os.open(f"{self.root}/{path}", OPEN_FLAGS)
                try:
                    state = os.fstat(descriptor)
                    data = os.read(descriptor, size + 1)
                    # Some FUSE file systems return fewer bytes than there are.
                    while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
                        data += more
                finally:
                    os.close(descriptor)
            except OSError as error:
                problems[row] = f"cannot be read: {error.strerror}"
                continue
            if len(data) == state.st_size == size and state.st_mtime_ns == modified:
                view[at : at + size] = data
            else:
                problems[row] = "changed while it was packed; run again without changing the tree"
        return problems


class FolderFiles(ImageFiles):
    """The files of a folder; the suffix may be in upper or lower case."""

    def __init__(self, root: Path, prefix: str) -> None:
        self.root = root
        self.prefix = prefix
        """The part of the keys that is not part of the files' paths; see ``Records.prefix``."""

    def __str__(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        for suffix in PNG_SUFFIXES:
            path = f"{self.root}/{key.removeprefix(self.prefix)}{suffix}"
            with suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
                return file.read()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


@dataclass(frozen=True, slots=True)
class FolderTree(Tree):
    """A scanned folder."""

    folders: dict[str, int]
    """Every folder's path below the root -> time of its last modification, in nanoseconds."""
    split_name: str | None
    """See ``Source.split_name``."""

    def changes(self) -> Sequence[str]:
        # A new or deleted name changes its folder's date; only then is the tree listed again.
        if not any(_date(self.root / path) != date for path, date in self.folders.items()):
            return ()
        now = scan_tree(self.root, split_name=self.split_name)
        return list(changes(list_tree(self), list_tree(now)))

    def leftovers(self) -> Leftovers:
        return leftovers_of_folder(self.root, self.packed_files)

    def image_files(self, split: str) -> ImageFiles:
        return FolderFiles(self.root.resolve(), key_prefix(self.split_name))


class FolderSource(Source):
    """A folder ``<split>/<class>/*.png``, or ``<class>/*.png`` with a ``split_name``."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        return True

    @contextmanager
    def open(
        self, *, executor: Executor, spool_folder: Path, progress: ScanProgress
    ) -> Iterator[Tree]:
        yield scan_tree(self.root, split_name=self.split_name, executor=executor, progress=progress)


def _date(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class _DiskFolders(Folders):
    """The folders of a tree on disk."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.dates: dict[str, int] = {}
        """Path of each folder that was listed -> time of its last modification, in ns."""

    def names(self, path: str) -> dict[str, bool]:
        full = f"{self.root}/{path}"
        # Read before the names, so that a change in between is noticed later.
        self.dates[path] = os.stat(full).st_mtime_ns
        with os.scandir(full) as entries:
            return {entry.name: _is_folder(entry) for entry in entries}

    def identity(self, path: str) -> tuple[int, int]:
        state = os.stat(f"{self.root}/{path}")
        return state.st_dev, state.st_ino


def scan_tree(
    root: str | os.PathLike[str],
    *,
    split_name: str | None = None,
    executor: Executor | None = None,
    progress: ScanProgress = lambda num_images: None,
) -> FolderTree:
    """Find the images below ``root``, and check their names and sizes.

    If there is no problem, no file is opened: packing reads and checks each one once. If there is a
    problem, the head of every file is checked as well, so that all problems are listed. The result
    does not depend on the order in which the file system lists names.

    Args:
        root: a folder with ``<split>/<class>/*.png``; any split names, any number of classes.
        split_name: if given, ``root`` is a folder with ``<class>/*.png``, all of this split.
        executor: scans the folders; by default one thread.
        progress: called with the number of images in each folder that was scanned.

    Raises:
        TreeError: the tree cannot be packed; lists every problem with its path.
    """
    if executor is None:
        with make_executor(1) as executor:
            return scan_tree(root, split_name=split_name, executor=executor, progress=progress)
    root = Path(root)
    if not os.path.isdir(root):
        what = "not a folder" if os.path.exists(root) else "no such folder"
        raise TreeError(str(root), [f"{root}: {what}; give a folder of <split>/<class>/*.png"])

    findings = Findings()
    full_path = os.path.abspath(root)  # a worker may have a different working folder
    on_disk = _DiskFolders(full_path)
    split_names, folders = find_folders(on_disk, split_name, findings)
    dates = on_disk.dates
    found: list[ClassFolder] = []
    for folder in _in_turn(executor, partial(_scan_folder, full_path, split_name), folders):
        found.append(folder)
        progress(len(folder.files))

    make_records = partial(FolderRecords, root=full_path, prefix=key_prefix(split_name))
    run = partial(_in_turn, executor)
    raise_problems(root, split_name, found, findings, make_records, run)
    for (split, name), folder in zip(folders, found, strict=True):
        dates[class_path(split, name, split_name)] = folder.modified_itself
    tree = assemble(split_names, folders, found, findings.strays, make_records)
    return FolderTree(root, *tree, dates, split_name)


def _in_turn(executor: Executor, function: Callable[[J], T], items: Iterable[J]) -> Iterator[T]:
    """Run a job for each item concurrently; yield the results in the order of the items."""
    jobs = [executor.submit(function, item) for item in items]
    try:
        for job in jobs:
            yield job.result()
    finally:
        for job in jobs:
            job.cancel()


def _scan_folder(root: str, split_name: str | None, names: tuple[str, str]) -> ClassFolder:
    """List a class's folder with the size and date of every image in it. Runs in any process."""
    folder = ClassFolder()
    folders = _DiskFolders(root)
    base = class_path(*names, split_name)
    try:
        file_names = folders.names(base)
    except OSError as error:
        folder.problems.append(f"{base}/: cannot be listed: {error.strerror}")
        return folder
    folder.modified_itself = folders.dates[base]
    for file_name in image_names(base, file_names, folders, folder):
        path = f"{base}/{file_name}"
        try:
            state = os.stat(f"{root}/{path}")
        except OSError as error:
            folder.problems.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if not stat.S_ISREG(state.st_mode):
            folder.problems.append(f"{path}: not an ordinary file")
        else:
            folder.add_image(path, state.st_size, state.st_mtime_ns)
    return folder
