"""Functions of the operating system that Python lacks: memory maps and syncs.

A map keeps no file open, so that a dataset may have any number of shards.
"""

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

MAX_MAPS = 2**15
"""The most maps of this process at a time. Linux allows a process 65,530 (``vm.max_map_count``),
and threads and libraries need some of them."""

_FAILED = ctypes.c_void_p(-1).value


def _load_system() -> Any:
    """Load the system's C library; None on Windows, and where the types below are wrong."""
    if os.name != "posix" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    system = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    system.mmap.restype = pointer
    system.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_int64)
    system.madvise.argtypes = (pointer, size, number)
    system.munmap.argtypes = (pointer, size)
    return system


_system = _load_system()
_unmap = getattr(_system, "munmap", None)


class _Map:
    """Owner of a map. Python's own ``mmap`` keeps the file open, at least until Python 3.13."""

    addresses: ClassVar[set[int]] = set()
    """Addresses of all maps: a set, because threads add and remove them at the same time."""

    def __init__(self, descriptor: int, size: int, *, read_ahead: bool) -> None:
        self._size = size
        self._address = _system.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if self._address == _FAILED:
            raise _last_error()
        self.addresses.add(self._address)
        if read_ahead:
            _system.madvise(self._address, size, mmap.MADV_WILLNEED)
        data = self._address, True  # read-only
        self.__array_interface__ = {
            "version": 3, "shape": (size,), "typestr": "|u1", "data": data
        }  # fmt: skip

    # Defaults, because the module's names may be gone when the process ends.
    def __del__(self, unmap: Any = _unmap, failed: Any = _FAILED) -> None:
        if self._address != failed:
            self.addresses.discard(self._address)
            unmap(self._address, self._size)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def map_file(descriptor: int, size: int, *, read_ahead: bool = False) -> NDArray[np.uint8]:
    """Map an open file. The map stays valid when the file is closed.

    Args:
        descriptor: the file.
        size: its size in bytes.
        read_ahead: let the system start to read the entire file now, from its start.

    Returns:
        A read-only array, uint8, shape (size,). The map ends with the array.

    Raises:
        OSError: the file cannot be mapped.
    """
    if size == 0:  # an empty file cannot be mapped
        return np.empty(0, np.uint8)
    if _system is not None:
        return np.asarray(_Map(descriptor, size, read_ahead=read_ahead))
    return np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), np.uint8)


def num_maps_left() -> int:
    """Return how many more files this process may map; negative if it has too many maps."""
    return MAX_MAPS - len(_Map.addresses)


def sync_folder(path: Path) -> None:
    """Write the names in a folder to the disk, so that new ones are there after a power cut.

    Windows, and some network file systems, cannot do this.

    Raises:
        OSError: the disk reports an error.
    """
    if os.name == "posix":
        _with_folder(path, os.fsync)


def sync_disk(path: Path) -> None:
    """Write the disk that holds a folder: faster than a sync of each of many small files.

    Raises:
        OSError: the disk reports an error.
    """
    if hasattr(_system, "syncfs"):  # Linux
        _with_folder(path, _syncfs)
    elif hasattr(os, "sync"):  # not on Windows
        os.sync()


def _syncfs(descriptor: int) -> None:
    if _system.syncfs(descriptor):
        raise _last_error()


def _with_folder(path: Path, sync: Any) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not listed
        return
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)
