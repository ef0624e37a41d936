"""What a store is: a place that holds a dataset's files under plain names.

A name has no ``/``; only ``folder`` goes one level down. Every method may be called from several
threads at once, and a store can be sent to another process.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import StoreError

MAX_READ_BYTES = 2**26
"""Of a file that is read whole, as the manifest is."""

Bytes = bytes | memoryview


class Store(ABC):
    """A folder, or a prefix of an object store or web server."""

    can_list = True
    """Whether it tells names, and can be written: a web server does neither."""
    is_local = False
    """Whether its files lie in a folder of this machine."""

    @abstractmethod
    def __str__(self) -> str:
        """The place, as messages name it; no secret is in it."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all files and folders here, sorted; none where there is nothing.

        Raises:
            StoreError, OutputError: they cannot be told.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file of at most 64 MiB.

        Raises:
            MissingError: it is not there.
            StoreError: it cannot be read, or is larger.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """A file's bytes.

        Raises:
            MissingError: it is not there.
            StoreError: it cannot be read.
        """

    @abstractmethod
    def read_range(self, name: str, start: int, stop: int) -> Bytes:
        """Bytes ``start`` to ``stop`` of a file, all of them, by one request.

        Raises:
            StoreError: it cannot be read, is shorter, or is not the file that was read before.
        """

    @abstractmethod
    def map(self, name: str, expected_size: int, *, read_ahead: bool = False) -> NDArray[np.uint8]:
        """A whole file as an array, read only: in a folder it is read when it is touched.

        From elsewhere it is fetched to a temporary file first, which goes with the array.

        Args:
            name: the file's name.
            expected_size: its bytes.
            read_ahead: let the system begin to read all of it now, in its order.

        Raises:
            StoreError: it cannot be read, or has another size; or there is no space to fetch it to.
        """

    @abstractmethod
    def create(self, name: str, *, is_shared: bool = False) -> AbstractContextManager[BinaryIO]:
        """Write a file that appears under its name only when it is whole.

        Args:
            name: the file's name.
            is_shared: another process may be writing the same file now, as where a cluster gives a
                job to a second worker; each writes one of its own until it is whole.

        Raises:
            OutputError: it cannot be written; nothing is left behind.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            OutputError: it cannot be removed.
        """

    @abstractmethod
    def folder(self, name: str) -> "Store":
        """The store of what lies in a folder here, which need not be there."""

    @abstractmethod
    def take(self, folder: str, name: str) -> None:
        """Move a file here from a folder of this store, if it is there.

        Raises:
            OutputError: it cannot be moved.
        """

    @abstractmethod
    def remove(self) -> None:
        """Remove everything that lies here, and the folder itself."""

    # What only a folder has.

    def lock(self, name: str) -> Any | None:
        """Hold a file that one process at a time can hold; None where another one does.

        Closing it lets it go. Object stores have no locks: whoever asks for one has it.
        """
        return _NoLock()

    def make(self) -> None:  # noqa: B027 - only folders are made
        """Make the folder, where a store has folders."""

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Take back the folders that were made for it, where an error ends this."""
        yield

    def is_folder(self, name: str) -> bool:
        """Whether a name is that of a folder, where a store has folders."""
        return False

    def free_bytes(self) -> int | None:
        """Space left for new files, where that is known."""
        return None


class _NoLock:
    """A lock that is not one."""

    def close(self) -> None:
        """Let it go."""


def refuse_another_size(place: str, size: int, expected: int, remedy: str) -> None:
    """A shard that is truncated, or not the dataset's.

    Raises:
        StoreError: the sizes differ.
    """
    if size != expected:
        raise StoreError(
            place,
            f"{size:,} bytes, the manifest says {expected:,}; the file is truncated or "
            f"another one, {remedy}",
        )
