"""Bytes by name: where a dataset's files are read from and written to.

A store is a place that holds a dataset's files under plain names. Only local folders so far.
"""

import errno
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import OptionError, OutputError, StoreError

TEMPORARY_SUFFIX = ".partial"


def open_store(place: str | os.PathLike[str]) -> "LocalStore":
    """The store at a place: so far a folder's path.

    Raises:
        OptionError: the place is a URL.
    """
    if "://" in (text := os.fspath(place)):
        raise OptionError(f"{text}: only local folders can be read or written so far")
    return LocalStore(Path(text))


class LocalStore:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        """Names of everything in the folder, sorted; none where there is no folder.

        Raises:
            OutputError: it cannot be listed.
        """
        try:
            return sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        except OSError as error:
            found = "a file, expected a folder" if os.path.isfile(self.root) else error.strerror
            raise OutputError(f"{self.root}: {found}; give another place") from error

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise StoreError(f"{self.root / name}: {error.strerror}") from error

    def map(self, name: str, expected_size: int, *, read_ahead: bool = False) -> NDArray[np.uint8]:
        """A whole file as an array that is read when it is touched.

        Args:
            name: the file's name.
            expected_size: its bytes.
            read_ahead: let the system begin to read all of it now, in its order.

        Raises:
            StoreError: it cannot be read, or has another size.
        """
        path = self.root / name
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected_size:
                    raise StoreError(
                        f"{path}: {size:,} bytes, the manifest says {expected_size:,}; the file "
                        "is truncated or another one, fetch it again"
                    )
                if size == 0:  # which cannot be mapped
                    return np.empty(0, np.uint8)
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        if read_ahead and hasattr(memory, "madvise"):
            memory.madvise(mmap.MADV_WILLNEED)
        return np.frombuffer(memory, np.uint8)

    def free_bytes(self) -> int:
        """Space left for new files."""
        return shutil.disk_usage(self.root).free

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Write a file that appears under its name only when it is whole.

        Raises:
            OutputError: it cannot be written; nothing is left behind.
        """
        path = self.root / name
        temporary = path.with_name(name + TEMPORARY_SUFFIX)
        try:
            with open(temporary, "wb") as file:
                yield file
            os.replace(temporary, path)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError):
                hint = "; free some or write elsewhere" if error.errno == errno.ENOSPC else ""
                raise OutputError(f"{path}: {error.strerror}{hint}") from error
            raise

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            (self.root / name).unlink()
