"""What the kernels are made of: the decorator, memory by address, C functions by address.

Memory that Python does not own as an array (a memory-mapped shard, a C library's functions) is
passed as an integer address. Each caller keeps the memory alive and has checked its bounds.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_cache_works = True


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.njit(nogil=True, cache=True)``, without the cache where none can be written."""
    global _cache_works
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


@kernel
def mix(x):
    """The output function of SplitMix64 (Steele, Lea, Flood 2014): every bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@intrinsic
def load_byte(typing_context, address):
    """The byte at an address, as int64."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def pointer(typing_context, address):
    """An address as the pointer that ``numba.carray`` makes an array of."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def copy_bytes(typing_context, to, source, length):
    """Copy so many bytes from one address to another."""

    def generate(context, builder, signature, arguments):
        to, source, length = arguments
        cgutils.raw_memcpy(
            builder,
            builder.inttoptr(to, cgutils.voidptr_t),
            builder.inttoptr(source, cgutils.voidptr_t),
            length,
            1,
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _call_address(num_arguments: int) -> Any:
    """An intrinsic that calls a C function by address: 64-bit arguments, 64-bit result."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        function_type = ir.FunctionType(word, [word] * num_arguments)
        function = builder.inttoptr(arguments[0], function_type.as_pointer())
        return builder.call(function, arguments[1:])

    return types.int64(*[types.int64] * (num_arguments + 1)), generate


@intrinsic
def call_0(typing_context, function):
    """Call the C function at an address with no argument."""
    return _call_address(0)


@intrinsic
def call_1(typing_context, function, a):
    """Call the C function at an address with one argument."""
    return _call_address(1)


@intrinsic
def call_3(typing_context, function, a, b, c):
    """Call the C function at an address with three."""
    return _call_address(3)


@intrinsic
def call_6(typing_context, function, a, b, c, d, e, f):
    """Call the C function at an address with six."""
    return _call_address(6)
