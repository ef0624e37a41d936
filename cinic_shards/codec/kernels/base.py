"""Load numba; decorators that compile kernels, and functions that several kernels share."""

import errno
import gc
import inspect
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from cinic_shards.codec.kernels.one_compiler import begin_compiling, end_compiling
from cinic_shards.jobs.compiling import about_to_compile

_was_collecting = gc.isenabled()
gc.disable()  # with torch loaded, garbage collections would take half of the import's time
try:
    import numba
    from numba.core import caching
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target
    from numba.misc.appdirs import AppDirs

    cpu_target.target_context.refresh()  # loads the rest of numba now, not with the first kernel
finally:
    if _was_collecting:
        gc.enable()

if hasattr(os, "register_at_fork"):
    # A process forked while another thread compiles would wait for that thread forever.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )

part = numba.njit
"""Decorator for a function that kernels call; it is compiled into each of them."""

inlined = numba.njit(inline="always")
"""Like ``part``, for a long function in an inner loop: LLVM would call it, and copy its arrays."""

_config: Any = numba.config
_can_cache: bool | None = None
"""True if kernels are cached; None before the first one."""


def kernel(function: Callable[..., Any]) -> Any:
    """Apply ``numba.njit(nogil=True, cache=True)``; without a cache if no folder is writable."""
    global _can_cache
    try:
        if _can_cache is None:
            _can_cache = _find_cache(function)
        if _can_cache:
            compiled: Any = numba.njit(nogil=True, cache=True)(function)
            compiled._cache = _ForgivingCache(compiled._cache)
            compiled.compile = compiled._cache.around(compiled.compile)
            return compiled
    except RuntimeError as error:  # numba: "no locator available"
        _can_cache = False
        _warn(str(error))
    return numba.njit(nogil=True)(function)


def _find_cache(function: Callable[..., Any]) -> bool:
    """Choose a writable folder for the cache; return False if there is none.

    Numba tries $NUMBA_CACHE_DIR, the package's folder and the user's cache folder. Without a home
    folder, the last of these is relative, and would be made in the working folder.
    """
    if _config.CACHE_DIR:
        _config.CACHE_DIR = os.path.expanduser(_config.CACHE_DIR)
    usual: list[Any] = [caching.UserProvidedCacheLocator, caching.InTreeCacheLocator]
    if os.path.isabs(AppDirs(appname="numba", appauthor=False).user_cache_dir):
        usual.append(caching.UserWideCacheLocator)
    if any(one.from_function(function, inspect.getfile(function)) for one in usual):
        return True
    try:
        _config.CACHE_DIR = _temporary_cache()
    except OSError as error:
        _warn(f"no folder for them is writable ({error.strerror})")
        return False
    return True


def _temporary_cache() -> str:
    """Return a folder of this user below the temporary folder; make it, with a warning."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    folder = os.path.join(tempfile.gettempdir(), f"cinic-shards-kernels-{user}")
    try:
        os.mkdir(folder)
        os.chmod(folder, 0o700)  # whatever the umask is
    except FileExistsError:
        # What is in this folder is executed: it must not be writable by anyone else.
        state = os.lstat(folder)
        is_own = stat.S_ISDIR(state.st_mode) and not state.st_mode & 0o077
        if hasattr(os, "geteuid") and not (is_own and state.st_uid == user):
            raise PermissionError(errno.EPERM, f"{folder} belongs to someone else") from None
    else:
        warnings.warn(
            f"compiled kernels are kept in {folder}: neither the package's folder nor the user's "
            "cache folder can be written; set NUMBA_CACHE_DIR to a lasting folder",
            stacklevel=2,
        )
    return folder


def _warn(why: str) -> None:
    warnings.warn(
        f"kernels are compiled again in every process: {why}; "
        "set NUMBA_CACHE_DIR to a writable folder",
        stacklevel=2,
    )


class _ForgivingCache:
    """Numba's cache of a kernel, for which an unreadable or unwritable file is no error.

    Of several processes that need a kernel, one compiles it; the others wait, and then load it.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._num_begun = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return a compiled kernel, or None; then numba compiles it."""
        found = self._tried(self._cache.load_overload, signature, target)
        if found is None:
            about_to_compile()
            begin_compiling(self._cache.cache_path)
            self._num_begun += 1
            found = self._tried(self._cache.load_overload, signature, target)
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        """Write a compiled kernel."""
        self._tried(self._cache.save_overload, signature, data)

    def around(self, compile_: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a kernel's method ``compile`` that lets the other processes resume at its end."""

        def compile_and_end(signature: Any) -> Any:
            with global_compiler_lock:  # held to the end: other threads compile kernels too
                before = self._num_begun
                try:
                    return compile_(signature)
                finally:
                    end_compiling(self._num_begun - before)
                    self._num_begun = before

        return compile_and_end

    def _tried(self, function: Callable[..., Any], *arguments: Any) -> Any:
        global _can_cache
        try:
            return function(*arguments)
        except Exception as error:  # also of pickle, if a file is damaged
            if _can_cache:
                _can_cache = False
                _warn(f"their cache {self._cache.cache_path}: {error}")
            return None


def is_compiling() -> bool:
    """True if this thread is compiling a kernel; other threads may be waiting for it."""
    return bool(global_compiler_lock.is_locked())


@part
def mix(x):
    """Apply the output function of SplitMix64 (Steele, Lea, Flood 2014) to a uint64.

    Every output bit depends on all input bits.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
