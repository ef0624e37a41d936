"""Blocks: where a row is, and the predictor of ``zstd``: pixels to what is left of them, and back.

Green is subtracted from red and blue. Of each plane a + b - c is subtracted, where a is the value
on the left, b the one above, c the one above a; outside the image all are 0. All of it is modulo
256, so going back is a running sum down the columns and one along the rows.
"""

import numpy as np

from cinic_shards.codec.kernels.base import kernel, part

# Flat arrays and unsigned numbers: see kernels/png.py.
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)


@kernel
def predict_batch(images, out):
    """``images`` uint8 (N, H, W, 3) -> ``out`` uint8 (3, N, H, W), what the predictor leaves."""
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
def unpredict_batch(left_over, out):
    """``left_over`` uint8, flat (3, N, H, W) -> ``out`` uint8 (N, H, W, 3)."""
    num_images, height, width, _ = out.shape
    pixels = out.reshape(-1)
    row_size = np.uint64(width)
    plane = np.uint64(num_images * height * width)
    # Sums down the columns so far, of the three planes; the loop over them vectorises.
    columns = np.zeros(3 * width, np.uint8)
    source = np.uint64(0)
    to = np.uint64(0)
    for _ in range(num_images):
        columns[:] = 0
        for _ in range(height):
            for x in range(row_size):
                columns[x] += left_over[source + x]
                columns[row_size + x] += left_over[plane + source + x]
                columns[_TWO * row_size + x] += left_over[_TWO * plane + source + x]
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
            source += row_size


@part
def _block_of(row, block_starts, last):
    """The block of a row, which is often that of the row before it."""
    if block_starts[last] <= row < block_starts[last + 1]:
        return last
    return np.searchsorted(block_starts, row, side="right") - 1


@kernel
def blocks_of_rows(rows, block_starts, out):
    """The block of each row, into ``out`` int64 (N,)."""
    block = 0
    for i in range(len(rows)):
        block = _block_of(rows[i], block_starts, block)
        out[i] = block


@kernel
def addresses_of_rows(rows, block_starts, block_addresses, image_bytes, out):
    """Where each row's image is, into ``out`` int64 (N,), where every block's address is known.

    Returns -1, or the first block whose address is 0.
    """
    block = 0
    for i in range(len(rows)):
        block = _block_of(rows[i], block_starts, block)
        if block_addresses[block] == 0:
            return block
        out[i] = block_addresses[block] + (rows[i] - block_starts[block]) * image_bytes
    return -1
