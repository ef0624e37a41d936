"""The folder of disk caches: what is in it, and deleting it."""

import os
import re
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from cinic_shards.errors import OptionError, OutputError
from cinic_shards.options import variable
from cinic_shards.store import local_path, lock_file

CACHE_DIR_VARIABLE = "CINIC_SHARDS_CACHE_DIR"
DATASET_NAME = "dataset"
"""The file that holds the dataset's location. A process that uses the cache has a shared lock on
it, and its time is that of the last opening."""
_NAMES = {DATASET_NAME, "locks", "pixels", "state"}
"""The files of a cache."""


def cache_root(folder: str | os.PathLike[str] | None) -> Path:
    """Return the folder of all disk caches.

    Args:
        folder: the option ``folder``; None for $CINIC_SHARDS_CACHE_DIR, or the user's cache folder.

    Raises:
        OptionError: the user has no home folder.
    """
    if folder is None and (text := variable(CACHE_DIR_VARIABLE)) is not None:
        folder = expanded(f"${CACHE_DIR_VARIABLE}", text)
    return _user_cache() if folder is None else Path(folder)


def expanded(name: str, folder: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a folder; ``~`` is the user's home folder."""
    path = os.path.expanduser(local_path(folder))
    if path.startswith("~"):
        raise OptionError(f"{name}={path!r}: this user has no home folder; give a full path")
    return Path(path).absolute()


def _user_cache() -> Path:
    try:
        root = user_cache_path("cinic-shards", appauthor=False)
    except RuntimeError:  # some versions of platformdirs; others return a relative path
        root = Path()
    if not root.is_absolute():
        raise OptionError(
            "cache='disk': this user has no home folder; set folder of the Cache, or "
            f"${CACHE_DIR_VARIABLE}"
        )
    return root


@dataclass(frozen=True, slots=True)
class CachedSplit:
    """The disk cache of one split, or of several."""

    path: Path
    """Its folder."""
    dataset: str
    """Location of the dataset when the cache was last opened; empty if unknown."""
    split: str
    num_bytes: int
    """Bytes that it takes on the disk."""
    used: float
    """Time when it was last opened, in seconds since 1970."""


def cached_splits(root: Path) -> list[CachedSplit]:
    """List all disk caches below a folder, the one that was used last at the end.

    Raises:
        OutputError: a folder or file there cannot be read.
    """
    try:
        found = [
            _cached_split(root / dataset / split)
            for dataset in _names_in(root)
            if re.fullmatch("[0-9a-f]{32}", dataset)
            for split in _names_in(root / dataset)
        ]
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        raise OutputError(f"{problem}; make it readable, or delete it by hand") from error
    return sorted((one for one in found if one is not None), key=lambda one: one.used)


def _names_in(folder: Path) -> list[str]:
    """List a folder; no names if it is a file, or another process has just deleted it."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _cached_split(folder: Path) -> CachedSplit | None:
    """Return the cache in a folder; None if there is none, or another process is deleting it."""
    names = set(_names_in(folder))
    if "pixels" not in names or not names <= _NAMES:
        return None
    try:
        files = [os.stat(folder / name) for name in names]
        note = (folder / DATASET_NAME).read_bytes() if DATASET_NAME in names else b""
    except FileNotFoundError:
        return None
    return CachedSplit(
        path=folder,
        dataset=os.fsdecode(note),
        split=folder.name,
        num_bytes=sum(
            file.st_blocks * 512 if hasattr(file, "st_blocks") else file.st_size for file in files
        ),
        used=max(file.st_mtime for file in files),
    )


def remove(cached: CachedSplit) -> bool:
    """Delete a disk cache unless a process is using it; return True if it was deleted.

    Raises:
        OutputError: it cannot be deleted.
    """
    try:
        lock = lock_file(cached.path / DATASET_NAME)
        if lock is None:
            return False
        with lock:
            # Renamed first: a process that opens the cache meanwhile makes a new folder.
            doomed = cached.path.with_name(f".{uuid.uuid4().hex}")
            cached.path.rename(doomed)
        shutil.rmtree(doomed)
        with suppress(OSError):  # if another split's cache is in it
            cached.path.parent.rmdir()
    except FileNotFoundError:  # another process has deleted it
        return True
    except OSError as error:
        raise OutputError(f"{cached.path}: {error.strerror}; delete it by hand") from error
    return True
