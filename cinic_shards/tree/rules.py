"""Rules for the names and sizes in a tree, the same for all sources."""

import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field

from cinic_shards.format import MAX_NAME_BYTES, SPLIT_NAME, name_problem
from cinic_shards.tree.names import (
    OTHER_IMAGES,
    is_any_image,
    is_left_out,
    stem_problem,
)

_PLAIN_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_BYTES}}}\.png", re.ASCII)
"""A file name that needs no further checks."""


PNG_SUFFIXES = ["." + "".join(letters) for letters in itertools.product("pP", "nN", "gG")]
"""A file's suffix may have capitals; the tar member's suffix has none."""


MAX_FILE_BYTES = 2**30
"""The largest file of an image; it is read into memory at once."""


class Folders(ABC):
    """The folders of a source, by their path below its root, which is ""."""

    root: str
    """The root's path, for messages."""

    @abstractmethod
    def names(self, path: str) -> dict[str, bool]:
        """List a folder: name -> True if it is a folder's.

        Raises:
            OSError: it cannot be listed.
        """

    def identity(self, path: str) -> Hashable:
        """Return a value that is the same for all paths of a folder."""
        return path

    def first_image(self, path: str) -> str:
        """Return the path of the first image in a folder or below it, of any format; or ""."""
        pending, seen = [path], set()
        for folder in pending:
            if (identity := self.identity(folder)) in seen:
                continue
            seen.add(identity)
            for name, is_folder in sorted(self.names(folder).items()):
                if is_folder and not is_left_out(name):
                    pending.append(f"{folder}/{name}")
                elif not is_folder and is_any_image(name):
                    return f"{folder}/{name}"
        return ""


@dataclass(slots=True)
class Findings:
    """Everything noted in a part of a tree, apart from its images."""

    problems: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    """Files and folders that are left out."""
    outside: list[str] = field(default_factory=list)
    """Images outside any folder of a class."""
    deeper: list[str] = field(default_factory=list)
    """The first image in each folder inside a class."""

    def add(self, more: "Findings") -> None:
        """Add those of a different part."""
        self.problems += more.problems
        self.strays += more.strays
        self.outside += more.outside
        self.deeper += more.deeper


@dataclass(slots=True)
class ClassFolder(Findings):
    """The content of the folder of a class in a split."""

    modified_itself: int = 0
    """Time of last modification of the folder itself, in nanoseconds."""
    files: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    modified: list[int] = field(default_factory=list)

    def add_image(self, path: str, size: int, modified: int) -> None:
        """Add an image; if its size is invalid, add a problem."""
        if not 0 < size <= MAX_FILE_BYTES:
            problem = f"{size:,} bytes, expected at most {MAX_FILE_BYTES:,}"
            self.problems.append(f"{path}: {problem if size else 'an empty file'}")
        else:
            self.files.append(path)
            self.sizes.append(size)
            self.modified.append(modified)


def class_path(split: str, name: str, split_name: str | None) -> str:
    """Return the path of a class's folder below the root.

    Args:
        split: the split.
        name: the class.
        split_name: the split of a tree that has no folders of splits, else None.
    """
    return f"{split}/{name}" if split_name is None else name


def key_prefix(split_name: str | None) -> str:
    """Return the part of each key that is not part of a file's path; see ``class_path``."""
    return "" if split_name is None else f"{split_name}/"


def find_folders(
    folders: Folders, split_name: str | None, found: Findings
) -> tuple[list[str], list[tuple[str, str]]]:
    """Find the folders of splits and classes.

    Args:
        folders: the tree's folders.
        split_name: the split of a tree that has no folders of splits, else None.
        found: what is noted is added to it.

    Returns:
        The names of the splits; and (split, class) of every class's folder.
    """
    split_names: list[str] = []
    if split_name is not None:
        split_names = [split_name]
    else:
        for split in _subfolders(folders, "", found):
            if SPLIT_NAME.fullmatch(split):
                split_names.append(split)
            else:
                problem = (
                    "a split's name may contain only letters, digits, '_', '-' and '.', and must "
                    "not start with '-', '.' or '__'; rename it"
                )
                _reject_images(folders, split, problem, found)
    of_classes = []
    for split in split_names:
        for name in _subfolders(folders, split if split_name is None else "", found):
            if problem := name_problem(f"{split}/{name}"):
                path = class_path(split, name, split_name)
                _reject_images(folders, path, f"{problem}; rename it", found)
            else:
                of_classes.append((split, name))
    return split_names, of_classes


def _reject_images(folders: Folders, path: str, problem: str, found: Findings) -> None:
    """Add a problem with a folder that holds an image; without an image, it is left out."""
    try:
        if folders.first_image(path):
            found.problems.append(f"{path}/: {problem}")
        else:
            found.strays.append(f"{path}/")
    except OSError as error:
        found.problems.append(f"{path}/: cannot be listed: {error.strerror}")


def _subfolders(folders: Folders, below: str, found: Findings) -> list[str]:
    """Return the folders in the root ("") or a split, without those that are left out."""
    try:
        names = folders.names(below)
    except OSError as error:
        found.problems.append(f"{below or folders.root}/: cannot be listed: {error.strerror}")
        return []
    subfolders = []
    for name, is_folder in sorted(names.items()):
        path = f"{below}/{name}" if below else name
        if is_left_out(name):
            found.strays.append(f"{path}/" if is_folder else path)
        elif is_folder:
            subfolders.append(name)
        elif name.lower().endswith(".png"):
            found.outside.append(path)
        else:
            found.strays.append(path)
    return subfolders


def image_names(base: str, names: dict[str, bool], folders: Folders, found: Findings) -> list[str]:
    """Return the images among the names in a class's folder, sorted.

    Args:
        base: path of the folder.
        names: all names in the folder -> True if it is a folder's.
        folders: the tree's folders.
        found: what is noted is added to it.
    """
    images = list(filter(_PLAIN_NAME.fullmatch, names))
    if len(images) == len(names):
        return sorted(images)
    stems = {name[:-4] for name in images}
    for name, is_folder in sorted(names.items()):
        path = f"{base}/{name}"
        stem, suffix = os.path.splitext(name)
        if _PLAIN_NAME.fullmatch(name):
            continue
        if is_left_out(name):
            found.strays.append(f"{path}/" if is_folder else path)
        elif suffix.lower() != ".png":
            if is_folder:
                _add_deeper(folders, path, found)
            elif suffix.lower() in OTHER_IMAGES:
                found.problems.append(f"{path}: an image, but not a PNG; convert it or remove it")
            else:
                found.strays.append(path)
        elif problem := stem_problem(stem):
            found.problems.append(f"{path}: {problem}")
        elif stem in stems:
            found.problems.append(
                f"{path}: duplicate key: a second file differs only in the case of .png; rename one"
            )
        else:
            stems.add(stem)
            images.append(name)
    return sorted(images)


def _add_deeper(folders: Folders, path: str, found: Findings) -> None:
    try:
        if image := folders.first_image(path):
            found.deeper.append(image)
        else:
            found.strays.append(f"{path}/")
    except OSError as error:
        found.problems.append(f"{path}/: cannot be listed: {error.strerror}")
