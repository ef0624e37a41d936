"""The interface of a store, which holds a dataset's files under plain names.

A name has no ``/``; only ``folder`` goes one level down. Every method may be called from several
threads at once, and a store can be pickled and sent to another process.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import MissingError, OutputError, StoreError

MAX_READ_BYTES = 2**27
"""The largest file that ``Store.read`` returns and ``Store.write`` writes: 128 MiB; for instance a
manifest of 200,000 shards."""

Bytes = bytes | memoryview


class Store(ABC):
    """A folder, or a prefix of an object store or web server.

    Example:
        >>> store = open_store("shards")
        >>> store.is_local, store.size("manifest.json") == len(store.read("manifest.json"))
        (True, True)
    """

    can_list = True
    """True if the store can list its names and be written; a web server can do neither."""
    is_local = False
    """True if its files are in a folder of this machine."""

    @abstractmethod
    def __str__(self) -> str:
        """The store's location for messages, without secrets."""

    @property
    def identity(self) -> tuple[object, ...]:
        """A tuple that is equal for two stores of the same files. It holds no secrets."""
        return type(self).__name__, str(self)

    @abstractmethod
    def names(self) -> list[str]:
        """List the names of all files and folders, sorted; empty if the folder is missing.

        Raises:
            OptionError: a web server cannot list its files.
            StoreError, OutputError: the names cannot be read.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read a complete file of at most ``MAX_READ_BYTES``.

        Raises:
            MissingError: there is no such file.
            StoreError: the file cannot be read, or is larger.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Return a file's size in bytes.

        Raises:
            MissingError: there is no such file.
            StoreError: the file cannot be read.
        """

    @abstractmethod
    def read_range(self, name: str, start: int, stop: int) -> Bytes:
        """Read a range of a file's bytes with one request.

        Args:
            name: the file's name.
            start: the first byte.
            stop: the byte after the last.

        Returns:
            All ``stop - start`` bytes, never fewer.

        Raises:
            StoreError: the file cannot be read, is shorter, or was replaced since the first read.
        """

    @abstractmethod
    def map(self, name: str, expected_size: int, *, read_ahead: bool = False) -> NDArray[np.uint8]:
        """Map a complete file as a read-only uint8 array, shape (expected_size,).

        Pages of a local file are read on access. A remote file is first fetched to a temporary
        file, which is deleted with the array.

        Args:
            name: the file's name.
            expected_size: the file's size in bytes.
            read_ahead: let the system start to read the entire file now, from its start.

        Raises:
            StoreError: the file cannot be read, has a different size, or does not fit on the
                temporary disk.
        """

    @abstractmethod
    def create(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Write a file that appears under its name only when it is complete.

        A local file is complete on the disk by then, and its name stays after a power cut. Other
        processes may write the same file at the same time: each writes its own temporary file, and
        the last one stays.

        Args:
            name: the file's name.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file if it exists.

        Raises:
            OutputError: the file cannot be deleted.
        """

    @abstractmethod
    def folder(self, name: str, *, prefix: str = "") -> "Store":
        """Return the store of a folder in this store; the folder need not exist.

        Args:
            name: the folder's name.
            prefix: if given, only files whose names begin with it are in that store, under the rest
                of their names.
        """

    @abstractmethod
    def take(self, folder: "Store", name: str) -> None:
        """Move a file from a folder of this store into this store, if it exists.

        Raises:
            OutputError: the file cannot be moved.
        """

    def write(self, name: str, data: bytes) -> None:
        """Write a file for ``read``; see ``create``.

        Raises:
            OutputError: it is larger than ``read`` accepts, or cannot be written.
        """
        if len(data) > MAX_READ_BYTES:
            raise OutputError(
                f"{self}/{name}: {len(data):,} bytes, expected at most {MAX_READ_BYTES:,}"
            )
        with self.create(name) as file:
            file.write(data)

    # Only a local folder overrides these.

    def lock(self, name: str, note: bytes) -> Any | None:
        """Lock a file; None if another process holds the lock.

        Closing the returned object releases the lock. Object stores have no locks: every call
        succeeds there.

        Args:
            name: the file's name.
            note: content of the file if this call creates it.
        """
        try:
            self.size(name)
        except MissingError:
            with self.create(name) as file:
                file.write(note)
        return _NoLock()

    def sync(self) -> None:  # noqa: B027 - only folders are synced
        """Wait until all calls of ``take`` and ``delete`` are on the disk: a power cut undoes none.

        Raises:
            OutputError: the disk reports an error.
        """

    def remove_if_empty(self) -> None:  # noqa: B027 - only folders are removed
        """Remove the folder if it holds nothing, and the store has folders."""

    def make(self) -> None:  # noqa: B027 - only folders are made
        """Make the folder, if the store has folders."""

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Context manager that deletes the folders made in its block if that ends with an error."""
        yield

    def is_folder(self, name: str) -> bool:
        """True if the name is a folder's; False if the store has no folders."""
        return False

    def free_bytes(self) -> int | None:
        """Return the bytes left for new files; None if unknown."""
        return None


class _NoLock:
    """A lock that locks nothing."""

    def close(self) -> None:
        """Do nothing."""


def check_size(location: str, size: int, expected: int, remedy: str) -> None:
    """Check the size of a shard against the manifest.

    Args:
        location: the shard, for the message.
        size: its size in bytes.
        expected: its size in the manifest.
        remedy: what to do next, for the message.

    Raises:
        StoreError: the sizes differ.
    """
    if size != expected:
        raise StoreError(
            location,
            f"{size:,} bytes, the manifest says {expected:,}; the file is truncated or "
            f"a different one, {remedy}",
        )
