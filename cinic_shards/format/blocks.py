"""Tar members of a block: the pixels of many samples, and their labels."""

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError
from cinic_shards.format.tar import lay_out_members

NPY_HEADER_BYTES = 128
"""Size of every npy header here; a multiple of 64, so that the array stays aligned."""
MAX_BLOCK_BYTES = 2**27
"""The most bytes of pixels in a block: a reader allocates memory for an entire block."""
LABELS_SUFFIX = "labels.npy"

_NPY_MAGIC = b"\x93NUMPY\x01\x00"


def npy_header(descr: str, shape: Sequence[int]) -> bytes:
    """Return the 128-byte header of an npy file as numpy writes it: version 1.0, C order."""
    dimensions = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dimensions}), }}"
    length = NPY_HEADER_BYTES - len(_NPY_MAGIC) - 2
    header = _NPY_MAGIC + struct.pack("<H", length) + text.ljust(length - 1).encode() + b"\n"
    assert len(header) == NPY_HEADER_BYTES
    return header


def parse_npy_shape(data: bytes, descr: str, num_dimensions: int) -> tuple[int, ...] | None:
    """Return the shape in a header that ``npy_header`` wrote; None for any other bytes."""
    numbers = re.findall(rb"[0-9]+", data[len(_NPY_MAGIC) + 2 + 50 : NPY_HEADER_BYTES])
    shape = tuple(int(number) for number in numbers[:num_dimensions])
    is_valid = len(shape) == num_dimensions and max(shape, default=0) < 2**31
    return shape if is_valid and npy_header(descr, shape) == data[:NPY_HEADER_BYTES] else None


def parse_npy(data: bytes, descr: str, num_dimensions: int) -> NDArray[Any] | None:
    """Return the array of an npy file in a shard, as a view of ``data``; None if it is invalid.

    Args:
        data: the file.
        descr: the expected dtype, such as ``<i8``.
        num_dimensions: the expected number of dimensions.
    """
    shape = parse_npy_shape(data, descr, num_dimensions)
    if shape is None:
        return None
    dtype = np.dtype(descr)
    if len(data) != NPY_HEADER_BYTES + dtype.itemsize * int(np.prod(shape, dtype=object)):
        return None
    return np.frombuffer(data, dtype, offset=NPY_HEADER_BYTES).reshape(shape)


def block_starts(num_samples: int, block_size: int) -> NDArray[np.int64]:
    """Return the first row of each block of a shard, then ``num_samples``: shape (blocks + 1,)."""
    return np.append(np.arange(0, num_samples, block_size), num_samples)


def block_name(shard: str, block: int) -> str:
    """Return the name of a block's members without suffix: ``train/00003-00007``.

    Args:
        shard: the shard's file name, here ``train-00003-of-00009.tar``.
        block: the block's number in the shard, here 7.
    """
    split, _, rest = shard.rpartition("-of-")[0].rpartition("-")
    return f"{split}/{rest}-{block:05d}"


def lay_out_block(
    name: str, suffix: str, payload_size: int, labels: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], int]:
    """Lay out a block's two members: the payload and the labels.

    Args:
        name: the block's name, see ``block_name``.
        suffix: suffix of the member that holds the payload.
        payload_size: the payload's size in bytes.
        labels: labels of the block's N samples, shape (N,).

    Returns:
        A uint8 buffer that is complete except for the payload, and the payload's offset in it.
    """
    values = labels.astype("<i8")
    content = npy_header("<i8", values.shape) + values.tobytes()
    names = [f"{name}.{suffix}", f"{name}.{LABELS_SUFFIX}"]
    buffer, starts = lay_out_members(
        [member.encode() for member in names], np.array([payload_size, len(content)])
    )
    start = int(starts[1])
    buffer[start : start + len(content)] = np.frombuffer(content, np.uint8)
    return buffer, int(starts[0])


def check_block_bytes(block_size: int, image_shape: Sequence[int], location: str) -> None:
    """Check that a block's pixels fit into ``MAX_BLOCK_BYTES``.

    Raises:
        FormatError: they do not.
    """
    if (size := block_size * int(np.prod(image_shape, dtype=object))) > MAX_BLOCK_BYTES:
        raise FormatError(
            location,
            f"blocks of {block_size:,} images of {image_shape[0]}x{image_shape[1]} are "
            f"{size:,} bytes, expected at most {MAX_BLOCK_BYTES:,}",
        )
