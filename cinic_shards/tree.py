"""A folder ``<split>/<class>/*.png`` -> validated, sorted records."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import TreeError
from cinic_shards.format import MAX_NAME_BYTES, MAX_PIXELS, SPLIT_NAME
from cinic_shards.workers import make_executor

# The first bytes of any PNG: signature, IHDR chunk's length and type; then width and height.
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_HEAD_BYTES = len(_PNG_HEAD) + 8

_PLAIN_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_BYTES}}}\.png", re.ASCII)
"""A name with which nothing can be wrong."""

MAX_FILE_BYTES = 2**30
"""Of one image: it is read whole."""

# Without O_NONBLOCK, a named pipe would be waited for. O_BINARY is Windows's.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_BAD_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\]")
_MAX_LISTED = 20
_OTHER_IMAGES = frozenset(
    ".jpg .jpeg .jpe .jp2 .bmp .gif .webp .tif .tiff .ppm .pgm .avif .heic".split()
)


@dataclass(frozen=True, slots=True)
class Records:
    """The images of one split, as columns of N rows."""

    files: list[str]
    """Path below the tree's root, with forward slashes: ``train/cat/n02121808_77.png``."""
    labels: NDArray[np.int32]
    """Index of each image's class in the tree's classes."""
    sizes: NDArray[np.int64]
    """File size in bytes."""
    modified: NDArray[np.int64]
    """Time of last modification, in nanoseconds."""
    heights: NDArray[np.int64]
    """Pixel rows, as the PNG's header states them."""
    widths: NDArray[np.int64]
    """Pixel columns, as the PNG's header states them."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def keys(self) -> list[str]:
        """``split/class/stem`` of each image."""
        return [file[:-4] for file in self.files]

    def take(self, rows: NDArray[np.int64]) -> "Records":
        """These rows, in this order."""
        return Records(
            [self.files[row] for row in rows.tolist()],
            self.labels[rows],
            self.sizes[rows],
            self.modified[rows],
            self.heights[rows],
            self.widths[rows],
        )


@dataclass(frozen=True, slots=True)
class Tree:
    """A scanned folder of PNGs."""

    root: Path
    classes: tuple[str, ...]
    """Class names of all splits, sorted: a class's place here is its label, as in ImageFolder."""
    splits: dict[str, Records]
    """Split name -> its images sorted by class and file name; splits in name order."""
    warnings: tuple[str, ...]
    """What a user should know and packing can live with."""

    def __len__(self) -> int:
        return sum(len(records) for records in self.splits.values())


@dataclass(slots=True)
class _Folder:
    """What one ``<split>/<class>`` folder holds."""

    files: list[str] = field(default_factory=list)
    numbers: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 4), np.int64))
    """Size, modification time, height, width of each file."""
    problems: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)


def scan_tree(
    root: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    progress: Callable[[int], None] = lambda num_images: None,
) -> Tree:
    """Find and check the images below ``root``, without decoding them.

    Each file is opened and its header read. The result does not depend on the order in which
    the file system lists names.

    Args:
        root: a folder with ``<split>/<class>/*.png``; any split names, any number of classes.
        executor: where folders are scanned; by default in a thread.
        progress: called with the number of images that a finished folder holds.

    Raises:
        TreeError: the tree cannot be packed; every problem is listed with its path.
    """
    if executor is None:
        with make_executor(1) as executor:
            return scan_tree(root, executor=executor, progress=progress)
    root = Path(root)
    if not os.path.isdir(root):
        found = "not a folder" if os.path.exists(root) else "no such folder"
        raise TreeError(str(root), [f"{root}: {found}; give a folder of <split>/<class>/*.png"])

    problems: list[str] = []
    strays: list[str] = []
    folders: list[tuple[str, str]] = []
    split_names = _subfolders(root, "", problems, strays)
    for split in split_names:
        if not SPLIT_NAME.fullmatch(split):
            problems.append(
                f"{split}/: a split's name must be of letters, digits, '_', '-' and '.', begin "
                "with none of the last two and not with '__'; rename it"
            )
            continue
        folders += [(split, name) for name in _subfolders(root, split, problems, strays)]

    jobs = [executor.submit(_scan_folder, str(root), split, name) for split, name in folders]
    found_by_split: dict[str, list[tuple[str, _Folder]]] = {}
    try:
        for (split, name), job in zip(folders, jobs, strict=True):
            folder = job.result()
            problems += folder.problems
            strays += folder.strays
            if folder.files:
                found_by_split.setdefault(split, []).append((name, folder))
            progress(len(folder.files))
    finally:
        for job in jobs:
            job.cancel()

    if not found_by_split and not problems:
        problems.append(f"{root}: no .png file in any <split>/<class>/ folder")
    if problems:
        raise TreeError(str(root), sorted(problems))

    classes = tuple(sorted({name for named in found_by_split.values() for name, _ in named}))
    splits = {split: _join(named, classes) for split, named in sorted(found_by_split.items())}
    warnings = _warnings(split_names, folders, found_by_split, classes, strays)
    return Tree(root, classes, splits, tuple(warnings))


def _subfolders(root: Path, below: str, problems: list[str], strays: list[str]) -> list[str]:
    """Names of the folders in ``root/below``; images and stray files there are told."""
    folders = []
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"{below or root}/: cannot be listed: {error.strerror}")
        return []
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            strays.append(path)
        elif os.path.isdir(entry.path):
            folders.append(entry.name)
        elif entry.name.lower().endswith(".png"):
            problems.append(f"{path}: an image outside any <split>/<class>/ folder; move it")
        else:
            strays.append(path)
    return folders


def _scan_folder(root: str, split: str, name: str) -> _Folder:
    """List one class's folder, and open every image in it. Runs in any process."""
    folder = _Folder()
    base = f"{split}/{name}"
    if problem := _key_problem(base):
        folder.problems.append(f"{base}/: {problem}")
        return folder
    try:
        names = sorted(os.listdir(f"{root}/{base}"))
    except OSError as error:
        folder.problems.append(f"{base}/: cannot be listed: {error.strerror}")
        return folder

    heads = []
    times_and_sizes = []
    for file_name in _image_names(root, base, names, folder):
        path = f"{base}/{file_name}"
        head = _read_head(f"{root}/{path}")
        if isinstance(head, str):
            folder.problems.append(f"{path}: {head}")
        else:
            heads.append(head[0])
            times_and_sizes.append(head[1:])
            folder.files.append(path)

    # All headers are checked at once: per file, only the system calls are left.
    table = np.frombuffer(b"".join(heads), np.uint8).reshape(len(heads), _HEAD_BYTES)
    expected = np.frombuffer(_PNG_HEAD, np.uint8)
    is_png = (table[:, : len(_PNG_HEAD)] == expected).all(axis=1)
    extent = table[:, len(_PNG_HEAD) :].copy().view(">u4").astype(np.int64)
    area = extent.prod(axis=1)
    for row in np.flatnonzero(~is_png | (area < 1) | (area > MAX_PIXELS)).tolist():
        if not is_png[row]:
            problem = f"not a PNG: it begins with {heads[row][:16]!r}"
        else:
            width, height = extent[row].tolist()
            problem = f"it declares {height}x{width} pixels, expected 1 to {MAX_PIXELS:,} in all"
        folder.problems.append(f"{folder.files[row]}: {problem}")
    folder.numbers = np.empty((len(heads), 4), np.int64)
    folder.numbers[:, :2] = np.array(times_and_sizes, np.int64).reshape(-1, 2)
    folder.numbers[:, 2:] = extent[:, ::-1]
    return folder


def _image_names(root: str, base: str, names: list[str], folder: _Folder) -> Iterator[str]:
    """Those of the names that are images'; what is wrong or stray goes to ``folder``."""
    stems: set[str] = set()
    for name in names:
        path = f"{base}/{name}"
        stem = name[:-4]
        if not _PLAIN_NAME.fullmatch(name):
            stem, suffix = os.path.splitext(name)
            if name.startswith("."):
                folder.strays.append(path)
                continue
            if suffix.lower() != ".png":
                if os.path.isdir(f"{root}/{path}"):
                    folder.problems.append(
                        f"{path}/: a folder inside a class; images must lie in <split>/<class>/"
                    )
                elif suffix.lower() in _OTHER_IMAGES:
                    folder.problems.append(f"{path}: an image, but no PNG; convert it or remove it")
                else:
                    folder.strays.append(path)
                continue
            if problem := _stem_problem(stem):
                folder.problems.append(f"{path}: {problem}")
                continue
        if stem in stems:
            folder.problems.append(
                f"{path}: the same key twice: another file differs only in the case of .png; "
                "rename one"
            )
            continue
        stems.add(stem)
        yield name


def _read_head(path: str) -> tuple[bytes, int, int] | str:
    """First bytes, size and modification time of a file; or what is wrong with it."""
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            return "not an ordinary file"
        if state.st_size == 0:
            return "an empty file"
        if state.st_size > MAX_FILE_BYTES:
            return f"{state.st_size:,} bytes, expected at most {MAX_FILE_BYTES:,}"
        head = os.read(descriptor, _HEAD_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)
    if len(head) < _HEAD_BYTES:
        return f"not a PNG: it has only {len(head)} bytes"
    return head, state.st_size, state.st_mtime_ns


def _stem_problem(stem: str) -> str:
    if "." in stem:
        return "a dot in the name before .png (webdataset would cut the key there); rename it"
    return _key_problem(stem)


def _key_problem(text: str) -> str:
    """Why this part of a key cannot be stored, or an empty string."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        return "a name that is not UTF-8; rename it"
    if length > MAX_NAME_BYTES:
        return f"a name of {length} bytes; a tar member holds {MAX_NAME_BYTES}, shorten it"
    if _BAD_CHARACTER.search(text):
        return "a control character or backslash in the name; rename it"
    return ""


def _join(named: list[tuple[str, _Folder]], classes: tuple[str, ...]) -> Records:
    """One split's folders as records, sorted by path."""
    files = [file for _, folder in named for file in folder.files]
    numbers = np.concatenate([folder.numbers for _, folder in named])
    labels = np.repeat(
        np.array([classes.index(name) for name, _ in named], np.int32),
        [len(folder.files) for _, folder in named],
    )
    columns = (np.ascontiguousarray(column) for column in numbers.T)
    return Records(files, labels, *columns)


def _warnings(
    split_names: list[str],
    folders: list[tuple[str, str]],
    found: dict[str, list[tuple[str, _Folder]]],
    classes: tuple[str, ...],
    strays: list[str],
) -> Iterable[str]:
    for split in sorted(set(split_names) - set(found)):
        yield f"split {split} has no image and is left out"
    for name in sorted({name for _, name in folders} - set(classes)):
        yield f"class {name} has no image in any split and gets no label"
    for split, named in sorted(found.items()):
        if missing := [name for name in classes if name not in {name for name, _ in named}]:
            yield f"split {split} has no image of {', '.join(missing)}"
    upper = [
        file
        for named in found.values()
        for _, folder in named
        for file in folder.files
        if not file.endswith(".png")
    ]
    if upper:
        yield f"written with the suffix .png in small letters: {_some(upper)}"
    if strays:
        yield f"left out, no image: {_some(strays)}"


def _some(paths: list[str]) -> str:
    """The first of many paths, and how many more there are."""
    shown = ", ".join(paths[:_MAX_LISTED])
    more = len(paths) - _MAX_LISTED
    return f"{shown} and {more:,} more" if more > 0 else shown
