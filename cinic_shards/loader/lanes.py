"""Lanes: how the order ``window`` takes the rows of a step from its sequence, in plan version 2.

docs/order.md defines it. Each lane has fixed positions in the full steps' batches. So a rank, which
has fixed positions too, reads the same lanes in every step.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.kernels.base import inlined, kernel, mix, part
from cinic_shards.codec.kernels.permutation import feistel, feistel_masks, permute
from cinic_shards.errors import OptionError

_MIN_LANES = 64

NO_BLOCK = (0, 0, 0, *[np.uint64(0)] * 4)
"""Argument of ``write_lane``."""


class Blocks(NamedTuple):
    """The B blocks of a sequence, as arrays for kernels."""

    starts: NDArray[np.int64]
    """First row of each block, then the number of rows: shape (B + 1,)."""
    order: NDArray[np.int64]
    """A permutation of range(B), shape (B,)."""
    sequence_starts: NDArray[np.int64]
    """Start of each block of ``order`` in the sequence, then its end: shape (B + 1,)."""


def lay_blocks(
    num_samples: int, starts: NDArray[np.int64] | None, keys: NDArray[np.uint64]
) -> Blocks:
    """Put the blocks in the order of a keyed permutation.

    Raises:
        OptionError: ``starts`` is invalid.
    """
    if (
        starts is None
        or len(starts) < 1
        or starts[0] != 0
        or starts[-1] != num_samples
        or (starts[1:] <= starts[:-1]).any()
    ):
        raise OptionError(f"block_starts {starts}: expected ascending rows, 0 to {num_samples}")
    order = np.empty(len(starts) - 1, np.int64)
    permute(0, len(order), keys, order)
    sequence_starts = np.concatenate([[0], np.cumsum(np.diff(starts)[order])])
    return Blocks(starts, order, sequence_starts)


def num_lanes(num_blocks: int, batch: int) -> int:
    """Return L for a global batch: the power of two next above an eighth of it, at least 64.

    It is not above the batch. Ranks whose number is a power of two, not above L, share no lane.
    ``num_blocks`` limited L in version 1 only.
    """
    lanes = _MIN_LANES
    while 8 * lanes < batch:
        lanes *= 2
    while lanes > batch:
        lanes //= 2
    return lanes


@part
def _bits(num_lanes):
    """Return the logarithm of a power of two. Dividing by a shift takes a tenth of the time."""
    bits = 0
    while 1 << bits < num_lanes:
        bits += 1
    return bits


@inlined
def write_lane(
    lane, start, end, offset, count, block, written,
    block_starts, order, sequence_starts, keys, out,
):  # fmt: skip
    """Write the rows at ``count`` offsets of a lane, from ``offset`` on, to ``out[written:]``.

    The lane is [start, end) of the sequence. An odd lane is read backwards. ``block`` is what the
    call for the lane before returned: the block that it ended in. At first it is ``NO_BLOCK``.
    """
    position, step = (end - 1 - offset, -1) if lane % 2 else (start + offset, 1)
    begin, num_rows, first_row, tweak, low_bits, low_mask, high_mask = block
    for i in range(written, written + count):
        if not begin <= position < begin + num_rows:
            k = np.searchsorted(sequence_starts, position, side="right") - 1
            number = order[k]
            begin, first_row = sequence_starts[k], block_starts[number]
            tweak = mix(np.uint64(number) + np.uint64(0x9E3779B97F4A7C15))
            if num_rows != block_starts[number + 1] - first_row:  # most blocks are of one size
                num_rows = block_starts[number + 1] - first_row
                low_bits, low_mask, high_mask = feistel_masks(num_rows)
        out[i] = first_row + feistel(
            position - begin, num_rows, low_bits, low_mask, high_mask, keys, tweak
        )
        position += step
    return begin, num_rows, first_row, tweak, low_bits, low_mask, high_mask


@kernel
def window_rows(
    step, skip, size, batch, num_lanes, block_starts, order, sequence_starts, keys, out
):
    """Write a step's rows to ``out``, in the order of their lanes.

    The first ``skip`` rows are left out; then ``out``, int64, is filled. The sequence has ``size``
    rows, and a full step has ``batch``. For ``block_starts``, ``order`` and ``sequence_starts`` see
    ``Blocks``.
    """
    if len(out) == 0:
        return
    bits = _bits(num_lanes)
    steps, rest = size // batch, size % batch
    count = batch if step < steps else rest
    lane = ((skip + 1) * num_lanes - 1) // count
    skip -= lane * count >> bits
    full, short = lane * batch >> bits, lane * rest >> bits
    block = NO_BLOCK
    written = 0
    while written < len(out):
        next_full, next_short = (lane + 1) * batch >> bits, (lane + 1) * rest >> bits
        share = next_full - full
        taken = (share if step < steps else next_short - short) - skip
        taken = min(taken, len(out) - written)
        block = write_lane(
            lane, steps * full + short, steps * next_full + next_short, step * share + skip, taken,
            block, written, block_starts, order, sequence_starts, keys, out,
        )  # fmt: skip
        written += taken
        lane, full, short, skip = lane + 1, next_full, next_short, 0


@kernel
def last_steps(size, batch, num_lanes, order, sequence_starts, out):
    """Write the last step that needs each block to ``out``, int64, shape (B,)."""
    bits = _bits(num_lanes)
    steps, rest = size // batch, size % batch
    out[:] = 0
    lane, start = 0, 0
    stop = steps * (batch >> bits) + (rest >> bits)
    for block in range(len(order)):
        begin, end = sequence_starts[block], sequence_starts[block + 1]
        number = order[block]
        while True:
            if begin < stop:
                share = ((lane + 1) * batch >> bits) - (lane * batch >> bits)
                offset = stop - 1 - max(begin, start) if lane % 2 else min(end, stop) - 1 - start
                out[number] = max(out[number], min(offset // share, steps))
            if end <= stop:
                break
            lane, start = lane + 1, stop
            stop = steps * ((lane + 1) * batch >> bits) + ((lane + 1) * rest >> bits)


def lanes_of_ranks(
    size: int, batch: int, num_lanes: int, world_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return how many lanes each of W ranks reads, and where these begin and end in the sequence.

    Returns:
        Number of lanes, begin and end: int64, shape (W,). 0 if a rank has no row.
    """
    steps, rest = divmod(size, batch)
    count = batch if steps else rest  # the short step after full ones is not looked at
    bounds = count * np.arange(world_size + 1) // world_size
    first, stop = bounds[:-1], bounds[1:]
    first_lane = ((first + 1) * num_lanes - 1) // count
    stop_lane = (stop * num_lanes - 1) // count + 1
    begin, end = (
        steps * (lane * batch // num_lanes) + lane * rest // num_lanes
        for lane in (first_lane, stop_lane)
    )
    is_used = first < stop
    return (stop_lane - first_lane) * is_used, begin * is_used, end * is_used
