"""Folders of this machine: files that are mapped, written whole, and locked."""

import errno
import mmap
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import MissingError, OutputError, StoreError
from cinic_shards.store.base import MAX_READ_BYTES, Bytes, Store, refuse_another_size

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY_SUFFIX = ".partial"


def lock_file(path: Path) -> BinaryIO | None:
    """Open a file that one process at a time can hold; None where another one does.

    Closing it, or the end of the process, lets it go. Where the system has no such locks, every
    process can hold it.
    """
    # Not by filelock: some of these files are data, which other processes read while it is held.
    # On Windows its locks forbid that, and its FileLock would be a second handle beside this one.
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


class LocalStore(Store):
    """A folder."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        # The process that it is sent to may have begun in another folder.
        return LocalStore, (self.root.absolute(),)

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        except OSError as error:
            found = "a file, expected a folder" if os.path.isfile(self.root) else error.strerror
            raise OutputError(f"{self.root}: {found}; give another place") from error

    def read(self, name: str) -> bytes:
        try:
            with self._open(name) as file:
                data = file.read(MAX_READ_BYTES + 1)
        except OSError as error:
            raise self._unread(name, error) from error
        if len(data) > MAX_READ_BYTES:
            raise StoreError(str(self.root / name), f"more than {MAX_READ_BYTES:,} bytes")
        return data

    def _open(self, name: str) -> BinaryIO:
        """An ordinary file: a named pipe would be waited for, a device may have no end."""
        path = self.root / name
        flags = getattr(os, "O_NONBLOCK", 0)
        file = open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags))  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise StoreError(str(path), "not an ordinary file")
        return file

    def size(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except OSError as error:
            raise self._unread(name, error) from error

    def _unread(self, name: str, error: OSError) -> StoreError:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        kind = MissingError if is_missing else StoreError
        return kind(str(self.root / name), f"{error.strerror}")

    def read_range(self, name: str, start: int, stop: int) -> Bytes:
        try:
            with self._open(name) as file:
                size = os.fstat(file.fileno()).st_size
                if stop > size:
                    raise StoreError(
                        str(self.root / name),
                        f"{size:,} bytes, expected at least {stop:,}; the file "
                        "is truncated, fetch it again",
                    )
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise self._unread(name, error) from error

    def map(self, name: str, expected_size: int, *, read_ahead: bool = False) -> NDArray[np.uint8]:
        path = self.root / name
        try:
            with self._open(name) as file:
                size = os.fstat(file.fileno()).st_size
                refuse_another_size(str(path), size, expected_size, "fetch it again")
                if size == 0:  # which cannot be mapped
                    return np.empty(0, np.uint8)
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._unread(name, error) from error
        if read_ahead and hasattr(memory, "madvise"):
            memory.madvise(mmap.MADV_WILLNEED)
        return np.frombuffer(memory, np.uint8)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    @contextmanager
    def create(self, name: str, *, is_shared: bool = False) -> Iterator[BinaryIO]:
        path = self.root / name
        mark = f".{uuid.uuid4().hex[:8]}" if is_shared else ""
        temporary = path.with_name(name + mark + TEMPORARY_SUFFIX)
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
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                (self.root / name).unlink()
        except OSError as error:
            raise OutputError(f"{self.root / name}: {error.strerror}") from error

    def folder(self, name: str) -> "LocalStore":
        return LocalStore(self.root / name)

    def take(self, folder: str, name: str) -> None:
        try:
            with suppress(FileNotFoundError):
                os.replace(self.root / folder / name, self.root / name)
        except OSError as error:
            raise OutputError(f"{self.root / name}: {error.strerror}") from error

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def lock(self, name: str) -> BinaryIO | None:
        return lock_file(self.root / name)

    def make(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        made = [one for one in (self.root, *self.root.parents) if not os.path.lexists(one)]
        try:
            yield
        except BaseException:
            for folder in made:
                with suppress(OSError):  # others may have put something there
                    folder.rmdir()
            raise

    def is_folder(self, name: str) -> bool:
        return (self.root / name).is_dir()


def store_of_file(path: Path) -> LocalStore:
    """The folder that a file is to be written to: ``create(path.name)`` of it.

    Raises:
        OutputError: there is no such folder, or a folder of the file's name.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise OutputError(f"{path}: a folder; give the name of a file")
    return LocalStore(path.parent)
