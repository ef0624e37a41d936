"""Files and folders of a tree that are not packed: deleting the tree would lose them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from cinic_shards.errors import TreeError

_JUNK = frozenset([".DS_Store", ".localized", "Thumbs.db", "ehthumbs.db", "desktop.ini"])
"""Files that file managers make by themselves, like ``._<name>``; nobody misses them."""
_JUNK_FOLDERS = frozenset(["__macosx", "__pycache__", "@eadir"])
"""Folders of such files, in lower case."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """The part of a tree that packing leaves out.

    Example:
        >>> verify("shards", against="cinic").leftovers.files
        ()
    """

    files: tuple[str, ...] = ()
    """Paths of all files that are neither packed nor junk, hidden ones included; sorted."""
    empty_folders: tuple[str, ...] = ()
    """Paths of folders without any file; only the uppermost ones; sorted."""
    num_junk: int = 0
    """Number of files such as ``.DS_Store``."""


def leftovers_of(files: Iterable[str], folders: Iterable[str], packed: frozenset[str]) -> Leftovers:
    """Find the leftovers of a tree.

    Args:
        files: paths of all files of the tree.
        folders: paths of all its folders.
        packed: paths of the files that are packed.
    """
    unpacked = [path for path in files if path not in packed]
    left = sorted(path for path in unpacked if not _is_junk(path))
    empty = set(folders) - _folders_above(packed) - _folders_above(left)
    uppermost = sorted(folder for folder in empty if folder.rpartition("/")[0] not in empty)
    return Leftovers(tuple(left), tuple(uppermost), len(unpacked) - len(left))


def _is_junk(path: str) -> bool:
    *folders, name = path.split("/")
    is_below = any(folder.lower() in _JUNK_FOLDERS for folder in folders)
    return is_below or name in _JUNK or name.startswith("._")


def _folders_above(paths: Iterable[str]) -> set[str]:
    """Return all folders that hold these files, at any depth."""
    found: set[str] = set()
    for folder in {path.rpartition("/")[0] for path in paths}:
        above = folder
        while above and above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return found


def leftovers_of_folder(root: str | os.PathLike[str], packed: frozenset[str]) -> Leftovers:
    """Find the leftovers below a folder; links are not followed, because ``rm -r`` does not either.

    Raises:
        TreeError: a folder cannot be listed.
    """
    files: list[str] = []
    folders: list[str] = []
    used = _folders_above(packed)

    def fail(error: OSError) -> None:
        raise TreeError(str(root), [f"{error.filename}/: cannot be listed: {error.strerror}"])

    for folder, names, file_names in os.walk(root, onerror=fail):
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        files += [prefix + name for name in file_names]
        for name in names:
            path = prefix + name
            if not os.path.islink(os.path.join(folder, name)):
                folders.append(path)
            elif path not in used:  # a class's folder may be a link, with packed images
                files.append(path)
    return leftovers_of(files, folders, packed)
