"""Lanes of plan version 1, for states of release 0.1.0; see lanes.py for the present version.

Position p of the global sequence is the (p // L)-th row of lane p mod L. If L does not divide the
global batch, the lanes of a rank change from step to step, and the ranks together read the dataset
several times.
"""

from cinic_shards.codec.kernels.base import kernel, part
from cinic_shards.loader.lanes import NO_BLOCK, write_lane


def num_lanes(num_blocks: int, batch: int) -> int:
    """Return L for a number of blocks and a global batch."""
    return min(num_blocks, batch, max(64, batch // 8))


@part
def _lane_start(lane, size, num_lanes):
    """Return a lane's start in the sequence; the first ``size`` mod L lanes have one more row."""
    return lane * (size // num_lanes) + min(lane, size % num_lanes)


@part
def _count_before(lane, first, stop, num_lanes):
    """Count the positions in [first, stop) that are in lanes before this one."""
    each, rest = (stop - first) // num_lanes, (stop - first) % num_lanes
    begin = first % num_lanes  # the rest goes to the lanes from here on, wrapping round to lane 0
    return (
        lane * each + min(max(lane - begin, 0), rest) + min(lane, max(begin + rest - num_lanes, 0))
    )


@kernel
def window_rows(
    step, skip, size, batch, num_lanes, block_starts, order, sequence_starts, keys, out
):
    """Write a step's rows to ``out``, as in version 2."""
    first = step * batch
    stop = min(first + batch, size)
    first_lane, above = 0, num_lanes
    while above - first_lane > 1:
        middle = (first_lane + above) // 2
        if _count_before(middle, first, stop, num_lanes) <= skip:
            first_lane = middle
        else:
            above = middle
    skip -= _count_before(first_lane, first, stop, num_lanes)
    # Divide once: a division takes as long as a row.
    first_offset, first_rest = first // num_lanes, first % num_lanes
    stop_offset, stop_rest = stop // num_lanes, stop % num_lanes
    each, longer = size // num_lanes, size % num_lanes
    block = NO_BLOCK
    written = 0
    for lane in range(first_lane, num_lanes):
        offset = first_offset + (1 if lane < first_rest else 0) + skip
        stop_in_lane = stop_offset + (1 if lane < stop_rest else 0)
        skip = max(0, offset - stop_in_lane)
        start = lane * each + min(lane, longer)
        end = start + each + (1 if lane < longer else 0)
        count = min(max(stop_in_lane - offset, 0), len(out) - written)
        block = write_lane(
            lane, start, end, offset, count, block, written,
            block_starts, order, sequence_starts, keys, out,
        )  # fmt: skip
        written += count
        if written == len(out):
            return


@kernel
def last_steps(size, batch, num_lanes, order, sequence_starts, out):
    """Write the last step that needs each block to ``out``, int64, shape (B,)."""
    out[:] = -1
    lane = 0
    for block in range(len(order)):
        begin, end = sequence_starts[block], sequence_starts[block + 1]
        while _lane_start(lane + 1, size, num_lanes) <= begin:
            lane += 1
        other = lane
        while other < num_lanes and _lane_start(other, size, num_lanes) < end:
            start = _lane_start(other, size, num_lanes)
            stop = _lane_start(other + 1, size, num_lanes)
            backwards = stop - 1 - max(begin, start)
            offset = backwards if other % 2 else min(end, stop) - 1 - start
            number = order[block]
            out[number] = max(out[number], (offset * num_lanes + other) // batch)
            other += 1
