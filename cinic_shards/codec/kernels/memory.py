"""Memory and C functions by address, for kernels.

Memory that Python does not own as an array (a memory-mapped shard, a C library's functions) is
passed as an integer address. Each caller keeps the memory alive and has checked its bounds.
"""

import numpy as np
from llvmlite import ir
from numba import carray  # type: ignore[attr-defined]
from numba.core import cgutils, types
from numba.extending import intrinsic

from cinic_shards.codec.kernels.base import part


@intrinsic
def _pointer(typing_context, address):
    """An address as the pointer that ``numba.carray`` makes an array of."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@part
def bytes_at(address, length):
    """The bytes at an address as an array, uint8 (length,); nothing is copied."""
    return carray(_pointer(address), (length,), np.uint8)


@intrinsic
def load_byte(typing_context, address):
    """The byte at an address, int64."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def prefetch(typing_context, address):
    """Let the processor begin to load what is at an address. Nothing depends on it."""

    def generate(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(
            builder.module, function_type, "llvm.prefetch.p0i8"
        )
        pointer = builder.inttoptr(arguments[0], byte)
        # To be read, kept near, data.
        builder.call(function, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def copy_bytes(typing_context, to, source, length):
    """Copy ``length`` bytes from one address to another."""

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
