"""Decoded images: gather them from memory, augment them, sum up their pixels."""

import numpy as np

from cinic_shards.codec.kernels.base import kernel, mix, part
from cinic_shards.codec.kernels.memory import (
    AT_ONCE,
    FLOATS_AT_ONCE,
    bytes_at,
    copy_bytes,
    images_at,
    prefetch,
    scale_bytes,
    split_channels,
)

_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_CACHE_LINE = 64
"""Bytes. On a CPU with a different size, this only costs time."""
_PIXELS_OF_LINES = 64
"""Pixels of 3 bytes in three cache lines."""


PAD_ZERO, PAD_EDGE, PAD_REFLECT = 0, 1, 2
"""Modes of padding an image; see ``source_of``."""


@kernel
def gather_images(addresses, out):
    """Copy the image at each of N addresses to ``out`` uint8 (N, H, W, 3)."""
    num_images, height, width, _ = out.shape
    size = height * width * 3
    to = out.ctypes.data
    for i in range(num_images):
        if i + 2 < num_images:  # both pages of the image: a random page is slow to look up
            prefetch(addresses[i + 2])
            prefetch(addresses[i + 2] + size - 1)
        copy_bytes(to + i * size, addresses[i], size)


@part
def _gather_planes(addresses, out):
    """Copy the image at each of N addresses, (H, W, 3), to ``out`` uint8 (N, 3, H, W)."""
    num_images, _, height, width = out.shape
    plane = height * width
    to = out.ctypes.data
    for i in range(num_images):
        following = addresses[min(i + 1, num_images - 1)]
        for start in range(0, plane, _PIXELS_OF_LINES):
            prefetch(following + 3 * start)
            prefetch(following + 3 * start + _CACHE_LINE)
            prefetch(following + 3 * start + 2 * _CACHE_LINE)
            count = min(_PIXELS_OF_LINES, plane - start)
            split_channels(
                addresses[i] + 3 * start, count, False, to + 3 * i * plane + start, plane
            )


@kernel
def gather_into(addresses, buffers, counts, planar, like):
    """Gather images into several buffers: returning to Python in between takes long.

    Args:
        addresses: int64 (N,), addresses of the images of all buffers, in their order.
        buffers: int64 (B,), addresses of the buffers, which are overwritten.
        counts: int64 (B,), images in each.
        planar: True for buffers of shape (n, 3, H, W), False for (n, H, W, 3).
        like: an array of one buffer, or any with its dtype and image size.
    """
    stop = 0
    for buffer in range(len(buffers)):
        start, stop = stop, stop + counts[buffer]
        out = images_at(buffers[buffer], (counts[buffer], *like.shape[1:]), like)
        if planar:
            _gather_planes(addresses[start:stop], out)
        else:
            gather_images(addresses[start:stop], out)


@kernel
def draw_augmentations(ids, key, padding, flip, height, width, out):
    """Draw the random augmentation of N samples, a function only of the key and a sample's id.

    Args:
        ids: int64 (N,).
        key: uint64.
        padding: pixels around an image before it is cropped.
        flip: True to flip half of the images.
        height: image height in pixels.
        width: image width in pixels.
        out: int64 (N, 5): top and left of the crop in the padded image, 1 to flip it, row and
            column of the centre of the cut-out square; overwritten.
    """
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    for i in range(len(ids)):
        first = mix(key ^ mix(np.uint64(ids[i]) + np.uint64(0x9E3779B97F4A7C15)))
        second = mix(first + np.uint64(0x9E3779B97F4A7C15))
        positions = np.uint64(2 * padding + 1)
        out[i, 0] = np.int64(((first >> half) * positions) >> half)
        out[i, 1] = np.int64(((first & low) * positions) >> half)
        out[i, 2] = np.int64(second >> np.uint64(63)) if flip else 0
        out[i, 3] = np.int64((((second >> np.uint64(31)) & low) * np.uint64(height)) >> half)
        out[i, 4] = np.int64(((second & np.uint64(0x7FFFFFFF)) * np.uint64(width)) >> np.uint64(31))


@part
def source_of(position, size, mode):
    """Return the position in an image, below ``size``, that a position in its padding stands for.

    Args:
        position: row or column, negative in the padding before the image.
        size: height or width.
        mode: ``PAD_EDGE``, or ``PAD_REFLECT``, which needs a padding below ``size``.
    """
    last = size - 1
    if mode == PAD_REFLECT:
        return last - abs(last - abs(position))
    return min(max(position, 0), last)


@part
def row_of(row, padding, height, mode):
    """Return the row of a padded image that a row of it shows; ``PAD_ZERO`` has black rows."""
    return row if mode == PAD_ZERO else padding + source_of(row - padding, height, mode)


@part
def fill_columns(padded, start, row_bytes, pixel_bytes, height, width, padding, left, mode):
    """Fill the columns of the padding that a crop shows, beside the rows of the image.

    Args:
        padded: uint8, holds the image, or one plane of it, within its padding.
        start: position of the padding's first byte in ``padded``.
        row_bytes: bytes of a row with its padding.
        pixel_bytes: bytes of a pixel, 1 or 3.
        height: image height in pixels.
        width: image width in pixels.
        padding: pixels on each side.
        left: first column of the crop, counted with the padding.
        mode: see ``source_of``.
    """
    first = left - padding  # the crop shows the columns first to first + width - 1
    begin = first if first < 0 else width
    inside = start + padding * row_bytes + padding * pixel_bytes
    for column in range(begin, begin + abs(first)):
        to = np.uint64(inside + column * pixel_bytes)
        source = np.uint64(inside + source_of(column, width, mode) * pixel_bytes)
        if pixel_bytes == 1:
            for _ in range(height):
                padded[to] = padded[source]
                to += np.uint64(row_bytes)
                source += np.uint64(row_bytes)
        else:
            for _ in range(height):
                padded[to] = padded[source]
                padded[to + _ONE] = padded[source + _ONE]
                padded[to + _TWO] = padded[source + _TWO]
                to += np.uint64(row_bytes)
                source += np.uint64(row_bytes)


@part
def augment_images(addresses, draws, padding, mode, cutout, fill, table, line, out):
    """Crop, flip, cut out and normalise N images in one pass.

    Args:
        addresses: int64 (N,), addresses of uint8 images (H, W, 3).
        draws: int64 (N, 5), see ``draw_augmentations``.
        padding: pixels around an image before it is cropped to its original size.
        mode: what these are: ``PAD_ZERO`` (black), ``PAD_EDGE`` or ``PAD_REFLECT``.
        cutout: side of the filled square in pixels; 0 for none.
        fill: uint8 (3,), the colour of this square.
        table: (3, 256), the output for each value of each channel; None to keep uint8.
        line: float64 (2, 3 W), scale and offset of each value of a row, if
            ``value * scale + offset`` in double precision, rounded once, equals the table; it
            vectorises and is twice as fast. None to use the table.
        out: (N, H, W, 3), with the table's dtype; overwritten.
    """
    num_images, height, width, _ = out.shape
    flat = out.reshape(-1)
    row_bytes = 3 * width
    padded_row = row_bytes + 6 * padding
    # The border stays black: only the inside is written.
    padded = np.zeros((height + 2 * padding) * padded_row, np.uint8)
    inside = padding * padded_row + 3 * padding
    columns = np.uint64(width)
    values = np.uint64(row_bytes)
    for i in range(num_images):
        base = addresses[i]
        following = addresses[min(i + 1, num_images - 1)]
        left = draws[i, 1]
        if draws[i, 2]:
            image = bytes_at(base, height * row_bytes)
            for y in range(height):
                last = np.uint64((y + 1) * row_bytes - 3)
                to = np.uint64(inside + y * padded_row)
                for x in range(columns):
                    padded[to + _THREE * x] = image[last - _THREE * x]
                    padded[to + _THREE * x + _ONE] = image[last - _THREE * x + _ONE]
                    padded[to + _THREE * x + _TWO] = image[last - _THREE * x + _TWO]
            left = 2 * padding - left  # in the mirrored image
            base = padded.ctypes.data
        elif padding > 0:
            for y in range(height):
                to_row = padded.ctypes.data + inside + y * padded_row
                copy_bytes(to_row, base + y * row_bytes, row_bytes)
            base = padded.ctypes.data
        if mode != PAD_ZERO:
            fill_columns(padded, 0, padded_row, 3, height, width, padding, left, mode)
        image = bytes_at(base, len(padded))
        for y in range(height):
            start = row_of(draws[i, 0] + y, padding, height, mode) * padded_row + 3 * left
            row = np.uint64(start)
            to = np.uint64((i * height + y) * row_bytes)
            for line_start in range(0, row_bytes, _CACHE_LINE):
                prefetch(following + y * row_bytes + line_start)
            if table is None:
                copy_bytes(flat.ctypes.data + np.int64(to), base + start, row_bytes)
            elif line is None:
                for x in range(columns):
                    flat[to + _THREE * x] = table[0, image[row + _THREE * x]]
                    flat[to + _THREE * x + _ONE] = table[1, image[row + _THREE * x + _ONE]]
                    flat[to + _THREE * x + _TWO] = table[2, image[row + _THREE * x + _TWO]]
            else:
                for x in range(values):
                    exact = np.float64(image[row + x]) * line[0, x] + line[1, x]
                    flat[to + x] = np.float32(exact)
        if cutout > 0:
            top = draws[i, 3] - cutout // 2
            left = draws[i, 4] - cutout // 2
            for y in range(max(top, 0), min(top + cutout, height)):
                for x in range(max(left, 0), min(left + cutout, width)):
                    for channel in range(3):
                        value = fill[channel]
                        out[i, y, x, channel] = value if table is None else table[channel, value]


@part
def augment_planes(addresses, draws, padding, mode, cutout, fill, table, line, out):
    """Do the same as ``augment_images``, with an ``out`` of shape (N, 3, H, W)."""
    num_images, _, height, width = out.shape
    flat = out.reshape(-1)
    plane = height * width
    padded_width = width + 2 * padding
    padded_plane = (height + 2 * padding) * padded_width
    # The border stays black: only the inside is written.
    padded = np.zeros(3 * padded_plane, np.uint8)
    inside = padding * padded_width + padding
    rest = width % AT_ONCE
    for i in range(num_images):
        following = addresses[min(i + 1, num_images - 1)]
        flip = draws[i, 2] == 1
        for y in range(height):
            to = padded.ctypes.data + inside + y * padded_width
            split_channels(addresses[i] + 3 * y * width, width, flip, to, padded_plane)
        left = 2 * padding - draws[i, 1] if flip else draws[i, 1]
        for channel in range(3 if mode != PAD_ZERO else 0):
            start = channel * padded_plane
            fill_columns(padded, start, padded_width, 1, height, width, padding, left, mode)
        for channel in range(3):
            scale = 0.0 if line is None else line[0, channel]
            offset = 0.0 if line is None else line[1, channel]
            for y in range(height):
                from_row = row_of(draws[i, 0] + y, padding, height, mode)
                row = channel * padded_plane + from_row * padded_width + left
                start = (channel * height + y) * width  # in the planes of an image
                to = 3 * i * plane + start
                for line_start in range(start, start + width, _CACHE_LINE):
                    prefetch(following + line_start)
                if table is None:
                    for x in range(0, width - rest, AT_ONCE):
                        copy_bytes(flat.ctypes.data + to + x, padded.ctypes.data + row + x, AT_ONCE)
                    for x in range(width - rest, width):
                        flat[to + x] = padded[row + x]
                elif line is None:
                    for x in range(np.uint64(width)):
                        flat[np.uint64(to) + x] = table[channel, padded[np.uint64(row) + x]]
                else:
                    for x in range(0, width - rest, FLOATS_AT_ONCE):
                        at = flat.ctypes.data + 4 * (to + x)
                        scale_bytes(padded.ctypes.data + row + x, scale, offset, at)
                    for x in range(width - rest, width):
                        flat[to + x] = np.float32(np.float64(padded[row + x]) * scale + offset)
        if cutout > 0:
            top = draws[i, 3] - cutout // 2
            left = draws[i, 4] - cutout // 2
            for channel in range(3):
                value = fill[channel]
                for y in range(max(top, 0), min(top + cutout, height)):
                    for x in range(max(left, 0), min(left + cutout, width)):
                        out[i, channel, y, x] = value if table is None else table[channel, value]


@kernel
def augment_into(
    addresses, draws, padding, mode, cutout, fill, table, line, buffers, counts, planar, like
):
    """Call ``augment_images`` for several buffers; see there and ``gather_into``."""
    stop = 0
    for buffer in range(len(buffers)):
        start, stop = stop, stop + counts[buffer]
        out = images_at(buffers[buffer], (counts[buffer], *like.shape[1:]), like)
        some, their_draws = addresses[start:stop], draws[start:stop]
        if planar:
            augment_planes(some, their_draws, padding, mode, cutout, fill, table, line, out)
        else:
            augment_images(some, their_draws, padding, mode, cutout, fill, table, line, out)


@kernel
def add_channel_sums(images, sums, square_sums):
    """Add the values and squared values of ``images`` uint8 (P, 3) to int64 sums of shape (3,)."""
    values = images.reshape(-1)
    # 96 is a multiple of 3, so a lane always sees the same channel and the loop vectorises.
    lane_sums = np.zeros(96, np.uint64)
    lane_squares = np.zeros(96, np.uint64)
    for start in range(np.uint64(0), np.uint64(len(values)), np.uint64(96)):
        for lane in range(min(np.uint64(96), np.uint64(len(values)) - start)):
            value = np.uint64(values[start + lane])
            lane_sums[lane] += value
            lane_squares[lane] += value * value
    for lane in range(96):
        sums[lane % 3] += np.int64(lane_sums[lane])
        square_sums[lane % 3] += np.int64(lane_squares[lane])


@kernel
def add_histograms(images, groups, counts):
    """Count each value of each channel of N images, uint8 (N, H, W, 3), by group.

    Args:
        images: uint8, C-contiguous.
        groups: int64 (N,), the group of each image, below G.
        counts: int64 (G, 3, 256); added to.
    """
    num_images, height, width, _ = images.shape
    values = images.reshape(-1)
    size = height * width * 3
    for i in range(num_images):
        group = groups[i]
        start = i * size
        for at in range(start, start + size, 3):
            counts[group, 0, values[at]] += 1
            counts[group, 1, values[at + 1]] += 1
            counts[group, 2, values[at + 2]] += 1
