"""Load numba; decorators that compile kernels, and functions that several kernels share."""

import gc
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

_was_collecting = gc.isenabled()
gc.disable()  # with torch loaded, garbage collections would take half of the import's time
try:
    import numba
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

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

_can_cache = True


def kernel(function: Callable[..., Any]) -> Any:
    """Apply ``numba.njit(nogil=True, cache=True)``; without a cache if no folder is writable."""
    global _can_cache
    if _can_cache:
        try:
            return numba.njit(nogil=True, cache=True)(function)
        except RuntimeError as error:  # numba: "no locator available"
            _can_cache = False
            warnings.warn(
                f"kernels are compiled again in every process: {error}; "
                "set NUMBA_CACHE_DIR to a writable folder",
                stacklevel=2,
            )
    return numba.njit(nogil=True)(function)


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
