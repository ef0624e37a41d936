"""The folder of disk caches: what is in it, and deleting it."""

import os
import re
import shutil
import uuid
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
    """List all disk caches below a folder, the one that was used last at the end."""
    found = []
    for pixels in root.glob("*/*/pixels"):
        folder = pixels.parent
        names = set(os.listdir(folder))
        if not re.fullmatch("[0-9a-f]{32}", folder.parent.name) or not names <= _NAMES:
            continue
        note = folder / DATASET_NAME
        files = [path.stat() for path in folder.iterdir()]
        found.append(
            CachedSplit(
                path=folder,
                dataset=note.read_text(encoding="utf-8") if note.exists() else "",
                split=folder.name,
                num_bytes=sum(
                    file.st_blocks * 512 if hasattr(file, "st_blocks") else file.st_size
                    for file in files
                ),
                used=max(file.st_mtime for file in files),
            )
        )
    return sorted(found, key=lambda one: one.used)


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
        if not os.listdir(cached.path.parent):
            cached.path.parent.rmdir()
    except OSError as error:
        raise OutputError(f"{cached.path}: {error.strerror}; delete it by hand") from error
    return True
