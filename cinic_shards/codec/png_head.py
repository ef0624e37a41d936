"""Check the first bytes of many PNGs at once."""

import numpy as np
from numpy.typing import NDArray

from cinic_shards.format import MAX_PIXELS

# The first bytes of any PNG: signature, length and type of the IHDR chunk. Then width and height.
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
HEAD_BYTES = len(_PNG_HEAD) + 8
"""The number of bytes at the start of a file that ``check_heads`` reads."""


def check_heads(
    buffer: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Read height and width from the first bytes of N PNGs.

    Args:
        buffer: memory that holds the files or their first ``HEAD_BYTES``, uint8, one-dimensional.
        starts: offset of each file in ``buffer``, shape (N,).
        sizes: size of each file in bytes, shape (N,).

    Returns:
        Height and width, int64, shape (N, 2), 0 for invalid files; and row -> why a file is
        invalid.
    """
    # For a shorter file, this reads arbitrary bytes after it; ``sizes`` is checked below.
    heads = buffer[np.minimum(starts[:, np.newaxis] + np.arange(HEAD_BYTES), len(buffer) - 1)]
    expected = np.frombuffer(_PNG_HEAD, np.uint8)
    is_png = (heads[:, : len(_PNG_HEAD)] == expected).all(axis=1)
    extents = heads[:, len(_PNG_HEAD) :].copy().view(">u4").astype(np.int64)[:, ::-1]
    # A product of two 32-bit numbers that exceeds 63 bits wraps to a negative number.
    area = extents.prod(axis=1)
    bad = ~is_png | (sizes < HEAD_BYTES) | (area < 1) | (area > MAX_PIXELS)
    problems = {}
    for row in np.flatnonzero(bad).tolist():
        if sizes[row] < HEAD_BYTES:
            problem = f"not a PNG: it has only {sizes[row]} bytes"
        elif not is_png[row]:
            problem = f"not a PNG: it begins with {heads[row, :16].tobytes()!r}"
        else:
            height, width = extents[row].tolist()
            problem = f"it declares {height}x{width} pixels, expected 1 to {MAX_PIXELS:,} in all"
        problems[row] = problem
    extents[bad] = 0
    return extents, problems
