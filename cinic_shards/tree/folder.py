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
from cinic_shards.tree.listing import changes, list_tree
from cinic_shards.tree.records import ImageFiles, Records, ScanProgress, Source, Tree
from cinic_shards.tree.rules import (
    PNG_SUFFIXES,
    ClassFolder,
    assemble,
    find_folders,
    image_names,
    key_problem,
    pick_folders,
    raise_problems,
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
                finally:
                    os.close(descriptor)
            except OSError as error:
                problems[row] = f"cannot be read: {error.strerror}"
                continue
            if len(data) == size and state.st_mtime_ns == modified:
                view[at : at + size] = data
            else:
                problems[row] = "changed while it was packed; run again without changing the tree"
        return problems


class FolderFiles(ImageFiles):
    """The files of a folder; the suffix may be in upper or lower case."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        for suffix in PNG_SUFFIXES:
            path = f"{self.root}/{key}{suffix}"
            with suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
                return file.read()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


@dataclass(frozen=True, slots=True)
class FolderTree(Tree):
    """A scanned folder."""

    folders: dict[str, int]
    """Every folder's path below the root -> time of its last modification, in nanoseconds."""

    def changes(self) -> Sequence[str]:
        # A new or deleted name changes its folder's date; only then is the tree listed again.
        if not any(_date(self.root / path) != date for path, date in self.folders.items()):
            return ()
        return list(changes(list_tree(self), list_tree(scan_tree(self.root))))

    def image_files(self, split: str) -> ImageFiles:
        return FolderFiles(self.root.resolve())


class FolderSource(Source):
    """A folder ``<split>/<class>/*.png``."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        return True

    @contextmanager
    def open(
        self, *, executor: Executor, spool_folder: Path, progress: ScanProgress
    ) -> Iterator[Tree]:
        yield scan_tree(self.root, executor=executor, progress=progress)


def _date(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def scan_tree(
    root: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    progress: ScanProgress = lambda num_images: None,
) -> FolderTree:
    """Find the images below ``root``, and check their names and sizes.

    If there is no problem, no file is opened: packing reads and checks each one once. If there is a
    problem, the head of every file is checked as well, so that all problems are listed. The result
    does not depend on the order in which the file system lists names.

    Args:
        root: a folder with ``<split>/<class>/*.png``; any split names, any number of classes.
        executor: scans the folders; by default one thread.
        progress: called with the number of images in each folder that was scanned.

    Raises:
        TreeError: the tree cannot be packed; lists every problem with its path.
    """
    if executor is None:
        with make_executor(1) as executor:
            return scan_tree(root, executor=executor, progress=progress)
    root = Path(root)
    if not os.path.isdir(root):
        what = "not a folder" if os.path.exists(root) else "no such folder"
        raise TreeError(str(root), [f"{root}: {what}; give a folder of <split>/<class>/*.png"])

    problems: list[str] = []
    strays: list[str] = []
    dates: dict[str, int] = {}
    full_path = os.path.abspath(root)  # a worker may have a different working folder
    split_names, folders = find_folders(
        lambda below: _subfolders(root, below, dates, problems, strays), problems
    )
    found: list[ClassFolder] = []
    for folder in _in_turn(executor, partial(_scan_folder, full_path), folders):
        found.append(folder)
        progress(len(folder.files))

    make_records = partial(FolderRecords, root=full_path)
    raise_problems(root, found, problems, make_records, partial(_in_turn, executor))
    for (split, name), folder in zip(folders, found, strict=True):
        dates[f"{split}/{name}"] = folder.modified_itself
    tree = assemble(split_names, folders, found, strays, make_records)
    return FolderTree(root, *tree, dates)


def _in_turn(executor: Executor, function: Callable[[J], T], items: Iterable[J]) -> Iterator[T]:
    """Run a job for each item concurrently; yield the results in the order of the items."""
    jobs = [executor.submit(function, item) for item in items]
    try:
        for job in jobs:
            yield job.result()
    finally:
        for job in jobs:
            job.cancel()


def _subfolders(
    root: Path, below: str, dates: dict[str, int], problems: list[str], strays: list[str]
) -> list[str]:
    """List the folders in ``root/below``; add its date, problems and stray files to the lists."""
    try:
        # Read before the names, so that a change in between is noticed later.
        dates[below] = os.stat(root / below).st_mtime_ns
        entries = list(os.scandir(root / below))
    except OSError as error:
        problems.append(f"{below or root}/: cannot be listed: {error.strerror}")
        return []
    names = {entry.name: os.path.isdir(entry.path) for entry in entries}
    return pick_folders(names, below, problems, strays)


def _scan_folder(root: str, names: tuple[str, str]) -> ClassFolder:
    """List a class's folder with the size and date of every image in it. Runs in any process."""
    folder = ClassFolder()
    base = "/".join(names)
    if problem := key_problem(base):
        folder.problems.append(f"{base}/: {problem}")
        return folder
    try:
        # Read before the names, so that a change in between is noticed later.
        folder.modified_itself = os.stat(f"{root}/{base}").st_mtime_ns
        file_names = sorted(os.listdir(f"{root}/{base}"))
    except OSError as error:
        folder.problems.append(f"{base}/: cannot be listed: {error.strerror}")
        return folder

    def is_folder(path: str) -> bool:
        return os.path.isdir(f"{root}/{path}")

    for file_name in image_names(base, file_names, is_folder, folder):
        path = f"{base}/{file_name}"
        try:
            state = os.stat(f"{root}/{path}")
        except OSError as error:
            folder.problems.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if not stat.S_ISREG(state.st_mode):
            folder.problems.append(f"{path}: not an ordinary file")
        else:
            folder.add(path, state.st_size, state.st_mtime_ns)
    return folder
