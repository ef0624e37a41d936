"""Bytes by name: where a dataset's files are read from and written to.

A store is a place that holds a dataset's files under plain names. Only local folders so far.
"""

import errno
import hashlib
import mmap
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.errors import FormatError, OptionError, OutputError, StoreError
from cinic_shards.format import Index, Manifest, ShardInfo

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAX_READ_BYTES = 2**26
"""Of a file that is read whole, as the manifest is."""

TEMPORARY_SUFFIX = ".partial"


def open_store(place: str | os.PathLike[str]) -> "LocalStore":
    """The store at a place: so far a folder's path.

    Raises:
        OptionError: the place is a URL.
    """
    if "://" in (text := os.fspath(place)):
        raise OptionError(f"{text}: only local folders can be read or written so far")
    return LocalStore(Path(text))


def read_manifest(store: "LocalStore") -> Manifest:
    """The manifest of the dataset that a store holds.

    Raises:
        StoreError: it holds none.
        FormatError: it is damaged or needs a newer release.
    """
    names = store.names()
    if fmt.MANIFEST_NAME not in names:
        if fmt.PACKING_FOLDER in names:
            raise StoreError(f"{store}: packing did not finish; run the same command again")
        found = f"holds {names[0]}, but no {fmt.MANIFEST_NAME}" if names else "no dataset"
        hint = "give a folder that cinic-shard pack has written"
        if any(fmt.parse_shard_name(name) for name in names):
            hint = "cinic-shard reindex makes it anew from the shards"
        raise StoreError(f"{store}: {found}; {hint}")
    return Manifest.from_bytes(store.read(fmt.MANIFEST_NAME), place=f"{store}/{fmt.MANIFEST_NAME}")


def open_shard(
    store: "LocalStore", shard: ShardInfo, num_classes: int, *, read_ahead: bool = False
) -> tuple[NDArray[np.uint8], Index]:
    """A shard's bytes, read when they are touched, and its index.

    Raises:
        StoreError: it cannot be read, or has another size.
        FormatError: its index is damaged, or not what the manifest says.
    """
    place = f"{store}/{shard.name}"
    memory = store.map(shard.name, shard.size, read_ahead=read_ahead)
    data = memory[shard.index_offset : shard.index_offset + shard.index_length].tobytes()
    if (found := hashlib.sha256(data).hexdigest()) != shard.index_sha256:
        raise FormatError(
            f"{place}: its index has SHA-256 {found}, the manifest says {shard.index_sha256}; "
            "the file is damaged, fetch it again"
        )
    place = f"{place}: index"
    index = Index.from_bytes(data, place=place, end=shard.index_offset, num_classes=num_classes)
    if len(index) != shard.num_samples:
        raise FormatError(f"{place}: {len(index)} samples, the manifest says {shard.num_samples}")
    return memory, index


def lock_file(path: Path) -> BinaryIO | None:
    """Open a file that one process at a time can hold; None where another one does.

    Closing it, or the end of the process, lets it go. Where the system has no such locks, every
    process can hold it.
    """
    file = open(path, "ab")  # noqa: SIM115
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
    return file


@contextmanager
def lock_byte(descriptor: int, position: int) -> Iterator[None]:
    """Hold one byte of a file, which need not be there: one process at a time, others wait.

    A process that closes any descriptor of the file lets all of its bytes go.
    """
    if fcntl is None:
        yield
        return
    while True:
        try:
            # Not waited for in the kernel: two processes, each with a thread that holds a byte and
            # one that waits for the other's, would be a deadlock to it.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
            break
        except (BlockingIOError, PermissionError):
            time.sleep(0.002)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, position)


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
        """A whole file of at most 64 MiB.

        Raises:
            StoreError: it cannot be read, or is larger.
        """
        try:
            with self._open(name) as file:
                data = file.read(MAX_READ_BYTES + 1)
        except OSError as error:
            raise StoreError(f"{self.root / name}: {error.strerror}") from error

        if len(data) > MAX_READ_BYTES:
            raise StoreError(f"{self.root / name}: more than {MAX_READ_BYTES:,} bytes")
        return data

    def _open(self, name: str) -> BinaryIO:
        """An ordinary file: a named pipe would be waited for, a device may have no end."""
        path = self.root / name
        flags = getattr(os, "O_NONBLOCK", 0)
        file = open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags))  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise StoreError(f"{path}: not an ordinary file")
        return file

    def size(self, name: str) -> int:
        """A file's bytes.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return (self.root / name).stat().st_size
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
            with self._open(name) as file:
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
