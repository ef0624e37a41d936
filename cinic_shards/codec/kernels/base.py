"""What the kernels are made of: the decorators, and what all of them share.

Numba takes half a second to load, a first batch from memory-mapped shards a tenth of that as plain
Python. So numba is loaded when it is needed, and the kernels that such a batch is made by run as
plain Python at first, for as long as it would take to load numba.
"""

import gc
import logging  # noqa: F401  # before what is registered below
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any

import numpy as np

Function = Callable[..., Any]

_PLAIN_SECONDS = 0.25
"""So long quick kernels run as plain Python, all in all: half of what loading numba takes. Of the
processor's time, so that a busy machine or disk changes nothing."""
_PLAIN_ROWS = 4096
"""So many at most in one call: several batches."""

_plain_seconds_left = _PLAIN_SECONDS
_new_parts: list[Function] = []
"""Those that numba does not know yet."""
_cache_works = True

_first_calls = threading.RLock()
"""Held while a kernel is compiled."""
if hasattr(os, "register_at_fork"):
    # A forked process would wait for ever for what a thread of its parent was importing. This comes
    # after what logging registers, and so is called before it: numba's import needs its lock.
    os.register_at_fork(
        before=_first_calls.acquire,
        after_in_parent=_first_calls.release,
        after_in_child=_first_calls.release,
    )


def part(function: Function) -> Function:
    """A function that kernels call: plain Python as it is, compiled into each of them by numba."""
    _new_parts.append(function)
    return function


def kernel(function: Function) -> "Kernel":
    """``numba.njit(nogil=True, cache=True)``, without the cache where none can be written."""
    return Kernel(function, is_quick=False)


def quick_kernel(function: Function) -> "Kernel":
    """A kernel that makes a batch in milliseconds as plain Python, too.

    Its last argument is as long as the work: what it fills, as a rule.
    """
    return Kernel(function, is_quick=True)


class Kernel:
    """A function over a whole batch; kernels do not call each other, but ``part``s.

    Args:
        plain: the function, which gives the same compiled or not.
        is_quick: whether it may run as plain Python at first.
    """

    def __init__(self, plain: Function, *, is_quick: bool) -> None:
        update_wrapper(self, plain)
        self.plain = plain
        self._is_quick = is_quick
        self._compiled: Any = None

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            # No lock: whoever holds one may have to close a forgotten iterator, and wait for it.
            if self._may_run_plain(*args):
                return self.run_plain(*args)
            self.compile(*args)
        return self._compiled(*args)

    def _may_run_plain(self, *args: Any) -> bool:
        return (
            self._compiled is None
            and self._is_quick
            and _plain_seconds_left > 0
            and len(args[-1]) <= _PLAIN_ROWS
        )

    def run_plain(self, *args: Any) -> Any:
        """Run it as plain Python."""
        global _plain_seconds_left
        start = time.thread_time()
        with np.errstate(over="ignore"):  # numbers of 64 bits wrap around, as when compiled
            result = self.plain(*args)
        _plain_seconds_left -= time.thread_time() - start
        return result

    def compile(self, *args: Any) -> None:
        """Compile it for arguments like these, or load what was compiled before."""
        failures: list[BaseException] = []

        def work() -> None:
            try:
                self._compile(args)
            except BaseException as error:
                failures.append(error)

        # In a thread: numba's import may lose Ctrl-C, an exception in the main one. Not by an
        # executor, whose locks the closing of a forgotten iterator may wait for.
        thread = threading.Thread(target=work, name="cinic-shards-compile")
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    def _compile(self, args: tuple[Any, ...]) -> None:
        global _plain_seconds_left
        with _first_calls:
            if self._compiled is not None:
                return
            with _without_collecting():
                import numba

                _plain_seconds_left = 0.0
                _register_parts()
                compiled = _jit(self.plain)
                compiled.compile(tuple(numba.typeof(arg) for arg in args))
                self._compiled = compiled


@contextmanager
def _without_collecting() -> Iterator[None]:
    """No garbage collection: with torch loaded, those that numba's import sets off take 0.25 s."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _register_parts() -> None:
    """Tell numba of the functions that kernels call."""
    from numba.extending import register_jitable

    from cinic_shards.codec.kernels import intrinsics  # noqa: F401

    while _new_parts:
        register_jitable(_new_parts.pop())


def _jit(function: Function) -> Any:
    """``numba.njit(nogil=True, cache=True)``, without the cache where none can be written."""
    global _cache_works
    import numba

    if _cache_works:
        try:
            return numba.njit(nogil=True, cache=True)(function)
        except RuntimeError as error:  # numba: "no locator available"
            _cache_works = False
            warnings.warn(
                f"kernels are compiled anew in every process: {error}; "
                "set NUMBA_CACHE_DIR to a folder that can be written",
                stacklevel=2,
            )
    return numba.njit(nogil=True)(function)


@part
def mix(x):
    """The output function of SplitMix64 (Steele, Lea, Flood 2014): every bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
