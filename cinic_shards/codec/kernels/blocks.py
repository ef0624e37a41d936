"""Blocks: find the block of a row, and the predictor of ``zstd``: pixels to residuals and back.

Green is subtracted from red and blue. Then a + b - c is subtracted from each plane, where a is the
value on the left, b the one above, c the one above a; outside the image all are 0. All arithmetic
is modulo 256, so the inverse is a running sum down the columns and one along the rows.
"""

import numpy as np

from cinic_shards.codec.kernels.base import kernel, part

# Flat arrays and unsigned numbers: see kernels/png.py.
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)


@kernel
def predict_batch(images, out):
    """Compute the residuals of ``images`` uint8 (N, H, W, 3) into ``out`` uint8 (3, N, H, W)."""
    num_images, height, width, _ = images.shape
    for i in range(num_images):
        for y in range(height):
            for x in range(width):
                green = images[i, y, x, 1]
                for channel in range(3):
                    value = np.uint8(images[i, y, x, channel] - (green if channel != 1 else 0))
                    if x > 0:
                        left = images[i, y, x - 1, channel]
                        value -= left - (images[i, y, x - 1, 1] if channel != 1 else 0)
                    if y > 0:
                        above = images[i, y - 1, x, channel]
                        value -= above - (images[i, y - 1, x, 1] if channel != 1 else 0)
                    if x > 0 and y > 0:
                        corner = images[i, y - 1, x - 1, channel]
                        value += corner - (images[i, y - 1, x - 1, 1] if channel != 1 else 0)
                    out[channel, i, y, x] = np.uint8(value)


@kernel
def unpredict_batch(residuals, out):
    """Restore ``out`` uint8 (N, H, W, 3) from ``residuals`` uint8, flat (3, N, H, W)."""
    num_images, height, width, _ = out.shape
    pixels = out.reshape(-1)
    row_size = np.uint64(width)
    plane = np.uint64(num_images * height * width)
    # Running sums down the columns of the three planes; the loop over them vectorises.
    columns = np.zeros(3 * width, np.uint8)
    row = np.uint64(0)
    to = np.uint64(0)
    for _ in range(num_images):
        columns[:] = 0
        for _ in range(height):
            for x in range(row_size):
                columns[x] += residuals[row + x]
                columns[row_size + x] += residuals[plane + row + x]
                columns[_TWO * row_size + x] += residuals[_TWO * plane + row + x]
            red = np.uint8(0)
            green = np.uint8(0)
            blue = np.uint8(0)
            for x in range(row_size):
                red += columns[x]
                green += columns[row_size + x]
                blue += columns[_TWO * row_size + x]
                pixels[to] = red + green
                pixels[to + _ONE] = green
                pixels[to + _TWO] = blue + green
                to += _THREE
            row += row_size


@part
def _block_of(row, block_starts, last):
    """Find the block of a row; ``last``, the block of the row before, is tried first."""
    if block_starts[last] <= row < block_starts[last + 1]:
        return last
    return np.searchsorted(block_starts, row, side="right") - 1


@kernel
def blocks_of_rows(rows, block_starts, out):
    """Find the block of each row, into ``out`` int64 (N,).

    Args:
        rows: int64 (N,).
        block_starts: first row of each block, then the number of rows.
        out: overwritten.
    """
    block = 0
    for i in range(len(rows)):
        block = _block_of(rows[i], block_starts, block)
        out[i] = block


@kernel
def addresses_of_rows(rows, block_starts, block_addresses, image_bytes, out):
    """Compute the address of each row's image, into ``out`` int64 (N,).

    Args:
        rows: int64 (N,).
        block_starts: first row of each block, then the number of rows.
        block_addresses: address of each block's first image; 0 if unknown.
        image_bytes: size of an image in bytes.
        out: overwritten.

    Returns:
        -1; or, as soon as a row needs it, the first block whose address is 0.
    """
    block = 0
    for i in range(len(rows)):
        block = _block_of(rows[i], block_starts, block)
        if block_addresses[block] == 0:
            return block
        out[i] = block_addresses[block] + (rows[i] - block_starts[block]) * image_bytes
    return -1
