"""Members that hold a block: the pixels of many samples, and their labels."""

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError
from cinic_shards.format.tar import lay_out_members

NPY_HEADER_BYTES = 128
"""Of every npy file here: the array behind it is aligned to 64 bytes."""
MAX_BLOCK_BYTES = 2**27
"""Of a block's pixels: a reader takes memory for a whole one."""
LABELS_SUFFIX = "labels.npy"

_NPY_MAGIC = b"\x93NUMPY\x01\x00"


def npy_header(descr: str, shape: Sequence[int]) -> bytes:
    """The first 128 bytes of an npy file, as numpy writes them: version 1.0, C order."""
    dimensions = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dimensions}), }}"
    length = NPY_HEADER_BYTES - len(_NPY_MAGIC) - 2
    header = _NPY_MAGIC + struct.pack("<H", length) + text.ljust(length - 1).encode() + b"\n"
    assert len(header) == NPY_HEADER_BYTES
    return header


def parse_npy_shape(data: bytes, descr: str, num_dimensions: int) -> tuple[int, ...] | None:
    """The shape that an npy header written by ``npy_header`` states; None where it is no such."""
    numbers = re.findall(rb"[0-9]+", data[len(_NPY_MAGIC) + 2 + 50 : NPY_HEADER_BYTES])
    shape = tuple(int(number) for number in numbers[:num_dimensions])
    is_one = len(shape) == num_dimensions and max(shape, default=0) < 2**31
    return shape if is_one and npy_header(descr, shape) == data[:NPY_HEADER_BYTES] else None


def parse_npy(data: bytes, descr: str, num_dimensions: int) -> NDArray[Any] | None:
    """The array of an npy file as it stands in a shard; None where it is no such."""
    shape = parse_npy_shape(data, descr, num_dimensions)
    if shape is None:
        return None
    dtype = np.dtype(descr)
    if len(data) != NPY_HEADER_BYTES + dtype.itemsize * int(np.prod(shape, dtype=object)):
        return None
    return np.frombuffer(data, dtype, offset=NPY_HEADER_BYTES).reshape(shape)


def block_starts(num_samples: int, block_size: int) -> NDArray[np.int64]:
    """First row of each block of a shard, and the shard's end."""
    return np.append(np.arange(0, num_samples, block_size), num_samples)


def block_name(shard: str, block: int) -> str:
    """What a block's members are called: ``train/00003-00007`` for shard 3, block 7."""
    split, _, rest = shard.rpartition("-of-")[0].rpartition("-")
    return f"{split}/{rest}-{block:05d}"


def lay_out_block(
    name: str, suffix: str, payload_size: int, labels: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], int]:
    """Room for a block's two members.

    Args:
        name: the block's.
        suffix: of the member that holds the payload.
        payload_size: bytes of its payload.
        labels: of its N samples.

    Returns:
        A uint8 buffer, complete but for the payload, and the payload's place in it.
    """
    values = labels.astype("<i8")
    content = npy_header("<i8", values.shape) + values.tobytes()
    names = [f"{name}.{suffix}", f"{name}.{LABELS_SUFFIX}"]
    buffer, starts = lay_out_members(
        [one.encode() for one in names], np.array([payload_size, len(content)])
    )
    at = int(starts[1])
    buffer[at : at + len(content)] = np.frombuffer(content, np.uint8)
    return buffer, int(starts[0])


def check_block_bytes(block_size: int, image_shape: Sequence[int], location: str) -> None:
    """Refuse blocks that take too much memory."""
    if (size := block_size * int(np.prod(image_shape, dtype=object))) > MAX_BLOCK_BYTES:
        raise FormatError(
            location,
            f"blocks of {block_size:,} images of {image_shape[0]}x{image_shape[1]} are "
            f"{size:,} bytes, expected at most {MAX_BLOCK_BYTES:,}",
        )
