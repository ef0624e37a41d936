"""Memory and C functions by address, for kernels.

Memory and functions that are not a numpy array (a memory-mapped shard, a C library's functions) are
passed as integer addresses. The caller keeps the memory alive and has checked its bounds.
"""

import numpy as np
from llvmlite import ir
from numba import carray  # type: ignore[attr-defined]
from numba.core import cgutils, types
from numba.extending import intrinsic

from cinic_shards.codec.kernels.base import inlined, part

AT_ONCE = 32
"""Bytes in one vector operation: an AVX2 register."""
FLOATS_AT_ONCE = 8
"""Floats in one vector operation: an AVX2 register. Longer operations were slower."""


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


def _splitter(order):
    """Return an intrinsic that splits ``AT_ONCE`` pixels of 3 bytes into three planes.

    LLVM does not vectorise such a loop, which takes four times as long.

    Args:
        order: positions of the pixels, in the order in which they are written.
    """

    @intrinsic
    def split(typing_context, start, to, plane):
        def generate(context, builder, signature, arguments):
            start, to, plane = arguments
            byte = ir.IntType(8)
            positions = ir.VectorType(ir.IntType(32), AT_ONCE)
            pixels = ir.VectorType(byte, 3 * AT_ONCE).as_pointer()
            loaded = builder.load(builder.inttoptr(start, pixels), align=1)
            for channel in range(3):
                # Two steps: X86 has fast code for each of them.
                every_third = [3 * pixel + channel for pixel in range(AT_ONCE)]
                found = builder.shuffle_vector(loaded, loaded, ir.Constant(positions, every_third))
                found = builder.shuffle_vector(found, found, ir.Constant(positions, order))
                pointer = builder.inttoptr(to, ir.VectorType(byte, AT_ONCE).as_pointer())
                builder.store(found, pointer, align=1)
                to = builder.add(to, plane)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return split


_split = _splitter(list(range(AT_ONCE)))
_split_mirrored = _splitter(list(range(AT_ONCE))[::-1])


@inlined
def split_channels(start, count, mirror, to, plane):
    """Copy a line of pixels of 3 bytes into three planes of bytes.

    Args:
        start: address of the pixels.
        count: number of pixels.
        mirror: True to write them in reverse order.
        to: address in the first plane.
        plane: bytes from one plane to the next.
    """
    rest = count % AT_ONCE
    if mirror:
        for x in range(0, count - rest, AT_ONCE):
            _split_mirrored(start + 3 * x, to + count - AT_ONCE - x, plane)
    else:
        for x in range(0, count - rest, AT_ONCE):
            _split(start + 3 * x, to + x, plane)
    if rest > 0:
        pixels = bytes_at(start, 3 * count)
        planes = bytes_at(to, 2 * plane + count)
        for x in range(count - rest, count):
            at = count - 1 - x if mirror else x
            planes[at] = pixels[3 * x]
            planes[plane + at] = pixels[3 * x + 1]
            planes[2 * plane + at] = pixels[3 * x + 2]


@intrinsic
def scale_bytes(typing_context, start, scale, offset, to):
    """Compute ``value * scale + offset`` in double precision, for ``FLOATS_AT_ONCE`` bytes.

    Args:
        typing_context: given by numba.
        start: address of the bytes.
        scale: float64.
        offset: float64.
        to: address of as many float32.
    """

    def generate(context, builder, signature, arguments):
        start, scale, offset, to = arguments

        def vector(kind):
            return ir.VectorType(kind, FLOATS_AT_ONCE)

        def repeated(value):
            first = builder.insert_element(
                ir.Constant(vector(value.type), ir.Undefined), value, ir.IntType(32)(0)
            )
            zeros = ir.Constant(vector(ir.IntType(32)), [0] * FLOATS_AT_ONCE)
            return builder.shuffle_vector(first, first, zeros)

        pointer = builder.inttoptr(start, vector(ir.IntType(8)).as_pointer())
        values = builder.zext(builder.load(pointer, align=1), vector(ir.IntType(32)))
        values = builder.sitofp(values, vector(ir.DoubleType()))
        values = builder.fadd(builder.fmul(values, repeated(scale)), repeated(offset))
        values = builder.fptrunc(values, vector(ir.FloatType()))
        builder.store(values, builder.inttoptr(to, values.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64, types.float64, types.int64), generate


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
