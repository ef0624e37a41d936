"""Memory and C functions by address, for kernels.

Memory and functions that are not a numpy array (a memory-mapped shard, a C library's functions) are
passed as integer addresses. The caller keeps the memory alive and has checked its bounds.
"""

import numpy as np
from llvmlite import ir
from numba import carray  # type: ignore[attr-defined]
from numba.core import cgutils, types
from numba.extending import intrinsic

from cinic_shards.codec.kernels.base import part


@intrinsic
def _pointer(typing_context, address):
    """Convert an address to the pointer that ``numba.carray`` expects."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@part
def bytes_at(address, length):
    """Return the bytes at an address as an array, uint8 (length,); nothing is copied."""
    return carray(_pointer(address), (length,), np.uint8)


@part
def images_at(address, shape, like):
    """Return the images at an address as an array of ``shape``, with the dtype of an array."""
    return carray(_pointer(address), shape, like.dtype)


@intrinsic
def load_byte(typing_context, address):
    """Load the byte at an address, as int64."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def prefetch(typing_context, address):
    """Hint to the CPU to load the cache line at an address; it has no other effect."""

    def generate(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(
            builder.module, function_type, "llvm.prefetch.p0i8"
        )
        pointer = builder.inttoptr(arguments[0], byte)
        # For reading, with high locality, into the data cache.
        builder.call(function, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def copy_bytes(typing_context, to, start, length):
    """Copy ``length`` bytes from address ``start`` to address ``to``."""

    def generate(context, builder, signature, arguments):
        to, start, length = arguments
        cgutils.raw_memcpy(
            builder,
            builder.inttoptr(to, cgutils.voidptr_t),
            builder.inttoptr(start, cgutils.voidptr_t),
            length,
            1,
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def call(typing_context, function, *arguments):
    """Call the C function at an address; arguments and result are int64."""

    def generate(context, builder, signature, values):
        address, packed = values
        unpacked = cgutils.unpack_tuple(builder, packed)
        word = ir.IntType(64)
        function_type = ir.FunctionType(word, [word] * len(unpacked))
        return builder.call(builder.inttoptr(address, function_type.as_pointer()), unpacked)

    words = types.StarArgUniTuple(types.int64, len(arguments))
    return types.int64(types.int64, words), generate
