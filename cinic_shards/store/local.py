"""Folders of this machine: mapped reads, atomic writes, and locks."""

import errno
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import MissingError, OutputError, StoreError, reason_of
from cinic_shards.store.base import MAX_READ_BYTES, Bytes, Store, check_size
from cinic_shards.store.system import map_file, sync_folder
from cinic_shards.store.urls import local_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY_SUFFIX = ".partial"


_POLL_SECONDS = 0.002
_MAX_DENIALS = 10
"""Refusals in a row, without a holder, that mean that a file system has no locks."""


def lock_file(path: Path, note: bytes = b"", *, shared: bool = False) -> BinaryIO | None:
    """Open a file to append to, and lock it; None if another process holds the lock.

    Closing the file, or the end of the process, releases the lock. On a system without ``fcntl``
    every call succeeds.

    Args:
        path: the file, which is created if it does not exist.
        note: content of the file if this call creates it.
        shared: lock it together with other processes that pass True.

    Raises:
        OSError: the file cannot be opened, or its file system has no locks.
    """
    # Not filelock: some of these files hold data that other processes read while they are locked.
    # On Windows its locks forbid that, and its FileLock would be a second handle beside this one.
    while True:
        try:
            file, is_new = open(path, "ab", opener=_open_new), True  # noqa: SIM115
        except FileExistsError:
            try:
                file, is_new = open(path, "ab", opener=_open_existing), False  # noqa: SIM115
            except FileNotFoundError:
                if path.is_symlink():  # its target does not exist
                    raise
                continue
        try:
            # The creator waits: others let go of a lock without a note.
            if not _lock(file, path, shared=shared, wait=is_new):
                file.close()
                return None
            # The process that held the lock may have deleted or renamed the file meanwhile.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                if is_new:
                    file.write(note)
                    file.flush()
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            if is_new:
                path.unlink(missing_ok=True)
            raise
        file.close()


def _open_new(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o666)


def _open_existing(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


def _lock(file: BinaryIO, path: Path, *, shared: bool, wait: bool) -> bool:
    """Lock an open file; return False if another process holds the lock."""
    if fcntl is None:
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except OSError as error:
        # SMB denies access to a lock that another process holds.
        if error.errno in _HELD and (
            isinstance(error, BlockingIOError) or _holder(file.fileno(), 0, 0) is not None
        ):
            return False
        raise OSError(error.errno, _no_locks(error), str(path)) from error
    return True


@contextmanager
def lock_byte(descriptor: int, position: int, *, wait_seconds: float) -> Iterator[str]:
    """Lock one byte of a file, which may be beyond its end; yield why it failed, or "".

    A process that closes any descriptor of the file releases all its locked bytes.

    Args:
        descriptor: the file, open for writing.
        position: position of the byte.
        wait_seconds: seconds to wait while another process holds the lock.
    """
    if fcntl is None:
        yield ""
        return
    problem = _try_to_lock(descriptor, position, wait_seconds)
    try:
        yield problem
    finally:
        if not problem:
            with suppress(OSError):  # the file system's lock service has ended
                fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, position)


def _try_to_lock(descriptor: int, position: int, wait_seconds: float) -> str:
    """Lock a byte; return "", or why it cannot be locked."""
    deadline = time.monotonic() + wait_seconds
    num_denials = 0
    while True:
        try:
            # Not a blocking lock: if two processes each have a thread that holds a byte and one
            # that waits for the other's byte, the kernel reports a deadlock.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
            return ""
        except OSError as error:
            is_late = time.monotonic() >= deadline
            if is_late or not isinstance(error, BlockingIOError):
                holder = _holder(descriptor, position, 1)
                num_denials = 0 if holder is not None else num_denials + 1
                if error.errno not in _HELD or num_denials >= _MAX_DENIALS:
                    return _no_locks(error)
                if is_late and holder is not None:
                    name = f"process {holder}" if holder else "another process"
                    return f"{name} has held a lock for {wait_seconds:g} s"
        time.sleep(_POLL_SECONDS)


_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
"""Errors of a lock that another process holds; NFS and SMB also report a missing right as one."""


def _no_locks(error: OSError) -> str:
    return f"{reason_of(error)}: this file system cannot lock files; use a different disk"


_FLOCK = {
    "linux": [("type", "i2"), ("whence", "i2"), ("start", "i8"), ("length", "i8"), ("pid", "i4")],
    "darwin": [("start", "i8"), ("length", "i8"), ("pid", "i4"), ("type", "i2"), ("whence", "i2")],
}
"""Fields of the C type ``struct flock``."""


def _holder(descriptor: int, position: int, length: int) -> int | None:
    """Return the id of the process that holds a lock on these bytes; None if there is none.

    0 if the system does not say which process it is, as for a process of a different machine.
    """
    if sys.platform not in _FLOCK:
        return 0
    dtype = np.dtype(_FLOCK[sys.platform], align=True)
    wanted = np.zeros((), dtype)
    wanted["type"], wanted["start"], wanted["length"] = fcntl.F_WRLCK, position, length
    try:
        found = np.frombuffer(fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted.tobytes()), dtype)[0]
    except OSError:
        return None
    return None if found["type"] == fcntl.F_UNLCK else max(0, int(found["pid"]))


class LocalStore(Store):
    """A folder."""

    is_local = True

    def __init__(self, root: Path, prefix: str = "") -> None:
        self.root = root
        self._prefix = prefix

    def __str__(self) -> str:
        return str(self.root)

    @property
    def identity(self) -> tuple[object, ...]:
        with suppress(OSError):
            state = os.stat(self.root)
            return "file", state.st_dev, state.st_ino
        return "file", os.path.realpath(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        # The receiving process may have a different working folder.
        return LocalStore, (self.root.absolute(), self._prefix)

    def path(self, name: str) -> Path:
        """Return a file's path."""
        return self.root / f"{self._prefix}{name}"

    def names(self) -> list[str]:
        try:
            found = sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        except OSError as error:
            what = "a file, expected a folder" if os.path.isfile(self.root) else reason_of(error)
            raise OutputError(f"{self.root}: {what}; give a different folder") from error
        start = len(self._prefix)
        return [name[start:] for name in found if name.startswith(self._prefix)]

    def read(self, name: str) -> bytes:
        try:
            with self._open(name) as file:
                data = file.read(MAX_READ_BYTES + 1)
        except OSError as error:
            raise self._unread(name, error) from error
        if len(data) > MAX_READ_BYTES:
            raise StoreError(str(self.path(name)), f"more than {MAX_READ_BYTES:,} bytes")
        return data

    def _open(self, name: str) -> BinaryIO:
        """Open an ordinary file; a named pipe would block, and a device may have no end."""
        path = self.path(name)
        flags = getattr(os, "O_NONBLOCK", 0)
        file = open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags))  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise StoreError(str(path), "not an ordinary file")
        return file

    def size(self, name: str) -> int:
        try:
            return (self.path(name)).stat().st_size
        except OSError as error:
            raise self._unread(name, error) from error

    def _unread(self, name: str, error: OSError) -> StoreError:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        error_type = MissingError if is_missing else StoreError
        hint = "; raise the limit of open files: ulimit -n" if error.errno == errno.EMFILE else ""
        return error_type(str(self.path(name)), f"{reason_of(error)}{hint}")

    def read_range(self, name: str, start: int, stop: int) -> Bytes:
        try:
            with self._open(name) as file:
                size = os.fstat(file.fileno()).st_size
                if stop <= size:
                    file.seek(start)
                    data = file.read(stop - start)
                    if len(data) == stop - start:
                        return data
                    size = start + len(data)  # the file has just been truncated
        except OSError as error:
            raise self._unread(name, error) from error
        raise StoreError(
            str(self.path(name)),
            f"{size:,} bytes, expected at least {stop:,}; the file is truncated, fetch it again",
        )

    def map(self, name: str, expected_size: int, *, read_ahead: bool = False) -> NDArray[np.uint8]:
        path = self.path(name)
        try:
            with self._open(name) as file:
                size = os.fstat(file.fileno()).st_size
                check_size(str(path), size, expected_size, "fetch it again")
                return map_file(file.fileno(), size, read_ahead=read_ahead)
        except OSError as error:
            raise self._unread(name, error) from error

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        path = self.path(name)
        # A name that no file of a user or of another process has.
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
        is_made = False
        try:
            with open(temporary, "xb") as file:
                is_made = True
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(self.root)
        except BaseException as error:
            if is_made:
                with suppress(OSError):
                    temporary.unlink()
            if isinstance(error, OSError):
                hint = "; free some or write elsewhere" if error.errno == errno.ENOSPC else ""
                raise OutputError(f"{path}: {reason_of(error)}{hint}") from error
            raise

    def delete(self, name: str) -> None:
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                (self.path(name)).unlink()
        except OSError as error:
            raise OutputError(f"{self.path(name)}: {reason_of(error)}") from error

    def folder(self, name: str, *, prefix: str = "") -> "LocalStore":
        return LocalStore(self.path(name), prefix)

    def take(self, folder: Store, name: str) -> None:
        assert isinstance(folder, LocalStore)
        try:
            with suppress(FileNotFoundError):
                os.replace(folder.path(name), self.path(name))
        except OSError as error:
            raise OutputError(f"{self.path(name)}: {reason_of(error)}") from error

    def remove_if_empty(self) -> None:
        with suppress(OSError):
            self.root.rmdir()

    def lock(self, name: str, note: bytes) -> BinaryIO | None:
        return lock_file(self.path(name), note)

    def make(self) -> None:
        if self.root.is_symlink():
            raise OutputError(f"{self.root}: a symbolic link, expected a folder; remove it")
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        try:
            os.makedirs(self.root, exist_ok=True)
        except FileExistsError as error:
            if self.root.exists():
                raise OutputError(f"{self.root}: a file, expected a folder; move it") from error
            self.make()  # another process has just removed it
        for folder in missing:
            sync_folder(folder.parent)

    def sync(self) -> None:
        try:
            sync_folder(self.root)
        except OSError as error:
            raise OutputError(f"{self.root}: {reason_of(error)}") from error

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        missing = [path for path in (self.root, *self.root.parents) if not os.path.lexists(path)]
        try:
            yield
        except BaseException:
            for folder in missing:
                with suppress(OSError):  # another process may have put files there
                    folder.rmdir()
            raise

    def is_folder(self, name: str) -> bool:
        return (self.path(name)).is_dir()


def store_of_file(path: Path) -> LocalStore:
    """Return the store of a file's folder; its ``create(path.name)`` writes the file.

    Raises:
        OptionError: ``path`` is a URL.
        OutputError: the folder does not exist, or ``path`` is a folder.
    """
    path = local_path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise OutputError(f"{path}: this is a folder; give the name of a file")
    return LocalStore(path.parent)
