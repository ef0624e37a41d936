"""Memory and C functions by address: the plain forms of what ``intrinsics.py`` compiles.

Memory that Python does not own as an array (a memory-mapped shard, a C library's functions) is
passed as an integer address. Each caller keeps the memory alive and has checked its bounds.
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

Word = int | np.int64
"""An address, a length, an argument."""


def bytes_at(address: Word, length: Word) -> NDArray[np.uint8]:
    """The bytes at an address as an array, uint8 (length,); nothing is copied."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * int(length)).from_address(int(address)))


def load_byte(address: Word) -> int:
    """The byte at an address."""
    return ctypes.c_uint8.from_address(int(address)).value


def prefetch(address: Word) -> None:
    """Let the processor begin to load what is at an address. Nothing depends on it."""


def copy_bytes(to: Word, source: Word, length: Word) -> None:
    """Copy so many bytes from one address to another."""
    # ctypes.memmove lets go of the GIL, and may wait for it longer than the copy takes.
    bytes_at(to, length)[:] = bytes_at(source, length)


def call_0(function: Word) -> int:
    """Call the C function at an address with no argument; arguments and result have 64 bits."""
    return _call(function)


def call_1(function: Word, a: Word) -> int:
    """Call the C function at an address with one argument."""
    return _call(function, a)


def call_3(function: Word, a: Word, b: Word, c: Word) -> int:
    """Call the C function at an address with three."""
    return _call(function, a, b, c)


def call_6(function: Word, a: Word, b: Word, c: Word, d: Word, e: Word, f: Word) -> int:
    """Call the C function at an address with six."""
    return _call(function, a, b, c, d, e, f)


def _call(function: Word, *arguments: Word) -> int:
    word = ctypes.c_int64
    prototype = ctypes.CFUNCTYPE(word, *[word] * len(arguments))
    return int(prototype(int(function))(*map(int, arguments)))
