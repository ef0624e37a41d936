"""Let one process compile a kernel while the others wait, and then load it from the cache."""

import os
import time
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: each process compiles
    fcntl = None  # type: ignore[assignment]

_WAIT_SECONDS = 60.0
"""After this time, a process compiles the kernel itself; one kernel takes a few seconds."""

_file: IO[bytes] | None = None
_depth = 0
"""Number of this process's kernels that are being compiled: one may need another."""


def begin_compiling(folder: str) -> None:
    """Wait until no other process compiles for a cache; call it with numba's compiler lock held.

    Args:
        folder: the folder of the cache.
    """
    global _file, _depth
    _depth += 1
    if _depth > 1 or fcntl is None:
        return
    try:
        _file = open(os.path.join(folder, "cinic-shards.lock"), "ab")  # noqa: SIM115
    except OSError:  # not writable: the cache says so
        return
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:  # a file system without locks
            return
        else:
            return


def end_compiling(times: int) -> None:
    """End this number of ``begin_compiling``; call it with numba's compiler lock held."""
    global _file, _depth
    _depth -= times
    if times and _depth == 0 and _file is not None:
        _file.close()
        _file = None
