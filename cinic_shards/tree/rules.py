"""Rules for the names and sizes in a tree, the same for all sources."""

import itertools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.meter import chunks
from cinic_shards.codec.png_head import check_heads
from cinic_shards.errors import TreeError, some
from cinic_shards.format import MAX_NAME_BYTES, SPLIT_NAME
from cinic_shards.tree.records import Records

_PLAIN_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_BYTES}}}\.png", re.ASCII)
"""A file name that needs no further checks."""


PNG_SUFFIXES = ["." + "".join(letters) for letters in itertools.product("pP", "nN", "gG")]
"""A file's suffix may have capitals; the tar member's suffix has none."""


MAX_FILE_BYTES = 2**30
"""The largest file of an image; it is read into memory at once."""


_BAD_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\]")


_OTHER_IMAGES = frozenset(
    ".jpg .jpeg .jpe .jp2 .bmp .gif .webp .tif .tiff .ppm .pgm .avif .heic".split()
)


@dataclass(slots=True)
class ClassFolder:
    """The content of one ``<split>/<class>`` folder."""

    modified_itself: int = 0
    """Time of last modification of the folder itself, in nanoseconds."""
    files: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    modified: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    def add(self, path: str, size: int, modified: int) -> None:
        """Add an image; if its size is invalid, add a problem."""
        if not 0 < size <= MAX_FILE_BYTES:
            problem = f"{size:,} bytes, expected at most {MAX_FILE_BYTES:,}"
            self.problems.append(f"{path}: {problem if size else 'an empty file'}")
        else:
            self.files.append(path)
            self.sizes.append(size)
            self.modified.append(modified)


def find_folders(
    subfolders: Callable[[str], list[str]], problems: list[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Find the folders of splits and classes.

    Args:
        subfolders: called with "" (the root) or a split; returns the names of the folders in it.
        problems: problems are added to it.

    Returns:
        The names of the splits' folders; and (split, class) of every class's folder.
    """
    folders: list[tuple[str, str]] = []
    split_names = subfolders("")
    for split in split_names:
        if not SPLIT_NAME.fullmatch(split):
            problems.append(
                f"{split}/: a split's name may contain only letters, digits, '_', '-' and '.', and "
                "must not start with '-', '.' or '__'; rename it"
            )
            continue
        folders += [(split, name) for name in subfolders(split)]
    return split_names, folders


MakeRecords = Callable[
    [list[str], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]], Records
]
"""Makes records from columns: files, labels, sizes in bytes, modification times in nanoseconds."""


def raise_problems(
    root: Path,
    found: list[ClassFolder],
    problems: list[str],
    make_records: MakeRecords,
    run: Callable[[Callable[[Records], list[str]], list[Records]], Iterable[list[str]]] = map,
) -> None:
    """Raise an error if there is any problem; in this case, check every file's head as well.

    Args:
        root: the tree.
        found: the folders of its classes.
        problems: problems of the tree that are not in ``found``.
        make_records: see ``MakeRecords``.
        run: maps a function over records, in any process.

    Raises:
        TreeError: there is a problem, or no image; lists every problem.
    """
    problems = problems + [problem for folder in found for problem in folder.problems]
    if not any(folder.files for folder in found) and not problems:
        problems.append(f"{root}: no .png file in any <split>/<class>/ folder")
    if problems:
        records = [_join([("", folder)], ("",), make_records) for folder in found if folder.files]
        for more in run(head_problems, records):
            problems += more
        raise TreeError(str(root), sorted(problems))


def head_problems(records: Records) -> list[str]:
    """Check the heads of files; return a problem for each invalid one. Runs in any process."""
    found = []
    for start, stop in chunks(records.sizes):
        sizes = records.sizes[start:stop]
        starts = np.cumsum(sizes) - sizes
        buffer = np.zeros(int(sizes.sum()), np.uint8)
        unread = records.read(start, stop, buffer, starts)
        problems = check_heads(buffer, starts, sizes)[1] | unread
        found += [f"{records.files[start + row]}: {text}" for row, text in problems.items()]
    return found


def assemble(
    split_names: list[str],
    folders: list[tuple[str, str]],
    found: list[ClassFolder],
    strays: list[str],
    make_records: MakeRecords,
) -> tuple[tuple[str, ...], dict[str, Records], tuple[str, ...]]:
    """Put together the classes, splits and warnings of a tree without problems."""
    strays = strays + [stray for folder in found for stray in folder.strays]
    found_by_split: dict[str, list[tuple[str, ClassFolder]]] = {}
    for (split, name), folder in zip(folders, found, strict=True):
        if folder.files:
            found_by_split.setdefault(split, []).append((name, folder))
    classes = tuple(sorted({name for named in found_by_split.values() for name, _ in named}))
    splits = {
        split: _join(named, classes, make_records)
        for split, named in sorted(found_by_split.items())
    }
    warnings = _warnings(split_names, folders, found_by_split, classes, strays)
    return classes, splits, tuple(warnings)


def pick_folders(
    names: dict[str, bool], below: str, problems: list[str], strays: list[str]
) -> list[str]:
    """Return the folders among the names in the root ("") or a split, without hidden ones.

    Args:
        names: name -> True if it is a folder's.
        below: the folder that holds them: "" or a split.
        problems: images are added to it, which must not be here.
        strays: hidden names and other files are added to it.
    """
    folders = []
    for name, is_folder in sorted(names.items()):
        path = f"{below}/{name}" if below else name
        if name.startswith("."):
            strays.append(path)
        elif is_folder:
            folders.append(name)
        elif name.lower().endswith(".png"):
            problems.append(f"{path}: an image outside any <split>/<class>/ folder; move it")
        else:
            strays.append(path)
    return folders


def image_names(
    base: str, names: list[str], is_folder: Callable[[str], bool], folder: ClassFolder
) -> list[str]:
    """Return the images among the names in a class's folder, sorted.

    Args:
        base: ``split/class``.
        names: all names in the folder, sorted.
        is_folder: called with ``split/class/name``; True if it is a folder.
        folder: problems and strays are added to it.
    """
    images = list(filter(_PLAIN_NAME.fullmatch, names))
    if len(images) == len(names):
        return images
    stems = {name[:-4] for name in images}
    for name in names:
        path = f"{base}/{name}"
        stem, suffix = os.path.splitext(name)
        if _PLAIN_NAME.fullmatch(name):
            continue
        if name.startswith("."):
            folder.strays.append(path)
        elif suffix.lower() != ".png":
            if is_folder(path):
                folder.problems.append(
                    f"{path}/: a folder inside a class; images must be in <split>/<class>/"
                )
            elif suffix.lower() in _OTHER_IMAGES:
                folder.problems.append(f"{path}: an image, but not a PNG; convert it or remove it")
            else:
                folder.strays.append(path)
        elif problem := _stem_problem(stem):
            folder.problems.append(f"{path}: {problem}")
        elif stem in stems:
            folder.problems.append(
                f"{path}: duplicate key: a second file differs only in the case of .png; rename one"
            )
        else:
            stems.add(stem)
            images.append(name)
    return sorted(images)


def _stem_problem(stem: str) -> str:
    if "." in stem:
        return "a dot in the name before .png (webdataset would cut the key there); rename it"
    return key_problem(stem)


def key_problem(text: str) -> str:
    """Return why this part of a key cannot be stored, or an empty string."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        return "a name that is not UTF-8; rename it"
    if length > MAX_NAME_BYTES:
        return f"a name of {length} bytes, expected at most {MAX_NAME_BYTES}; shorten it"
    if _BAD_CHARACTER.search(text):
        return "a control character or backslash in the name; rename it"
    return ""


def _join(
    named: list[tuple[str, ClassFolder]], classes: tuple[str, ...], make_records: MakeRecords
) -> Records:
    """Join a split's folders as records, sorted by path."""
    folders = [folder for _, folder in named]
    labels = np.repeat(
        np.array([classes.index(name) for name, _ in named], np.int32),
        [len(folder.files) for folder in folders],
    )
    return make_records(
        [file for folder in folders for file in folder.files],
        labels,
        np.array([size for folder in folders for size in folder.sizes], np.int64),
        np.array([modified for folder in folders for modified in folder.modified], np.int64),
    )


def _warnings(
    split_names: list[str],
    folders: list[tuple[str, str]],
    found: dict[str, list[tuple[str, ClassFolder]]],
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
        yield f"stored with the suffix .png in lower case: {some(upper)}"
    if strays:
        yield f"left out, not images: {some(strays)}"
