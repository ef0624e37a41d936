"""The compiled forms of ``memory.py``'s functions.

This file imports numba, which takes half a second: ``base.py`` imports it when a kernel is
compiled.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray  # type: ignore[attr-defined]
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from cinic_shards.codec.kernels import memory


@intrinsic
def _pointer(typing_context, address):
    """An address as the pointer that ``numba.carray`` makes an array of."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@overload(memory.bytes_at)
def _(address, length):
    return lambda address, length: carray(_pointer(address), (length,), np.uint8)


@intrinsic
def _load_byte(typing_context, address):
    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@overload(memory.load_byte)
def _(address):
    return lambda address: _load_byte(address)


@intrinsic
def _prefetch(typing_context, address):
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


@overload(memory.prefetch)
def _(address):
    return lambda address: _prefetch(address)


@intrinsic
def _copy_bytes(typing_context, to, source, length):
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


@overload(memory.copy_bytes)
def _(to, source, length):
    return lambda to, source, length: _copy_bytes(to, source, length)


def _call(num_arguments: int) -> Any:
    """What an intrinsic gives that calls a C function: 64-bit arguments, 64-bit result."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        function_type = ir.FunctionType(word, [word] * num_arguments)
        function = builder.inttoptr(arguments[0], function_type.as_pointer())
        return builder.call(function, arguments[1:])

    return types.int64(*[types.int64] * (num_arguments + 1)), generate


@intrinsic
def _call_0(typing_context, function):
    return _call(0)


@intrinsic
def _call_1(typing_context, function, a):
    return _call(1)


@intrinsic
def _call_3(typing_context, function, a, b, c):
    return _call(3)


@intrinsic
def _call_6(typing_context, function, a, b, c, d, e, f):
    return _call(6)


@overload(memory.call_0)
def _(function):
    return lambda function: _call_0(function)


@overload(memory.call_1)
def _(function, a):
    return lambda function, a: _call_1(function, a)


@overload(memory.call_3)
def _(function, a, b, c):
    return lambda function, a, b, c: _call_3(function, a, b, c)


@overload(memory.call_6)
def _(function, a, b, c, d, e, f):
    return lambda function, a, b, c, d, e, f: _call_6(function, a, b, c, d, e, f)
