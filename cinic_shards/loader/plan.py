"""The order of an epoch: which rows each rank visits at each step, by integer arithmetic alone.

One *global* sequence of rows per (seed, epoch) is defined independently of ranks, workers and
where the data is. Step s is positions [s G, (s + 1) G) of it, with the global batch size G; rank r
of W takes [n r // W, n (r + 1) // W) of a step's n positions. There are two shuffled orders:

``full``
    A keyed permutation of all rows.

``window``
    Blocks in a keyed random order, with the rows of each block permuted, make one sequence. It is
    cut into L *lanes* of equal length, and position p is the (p // L)-th row of lane p mod L. So a
    batch takes a few rows of each lane and mixes L random blocks, and a reader holds about L blocks
    at a time. Even lanes are read forwards, odd lanes backwards: two neighbours both begin, or both
    end, at the block that they share, so it is read once. Within a batch, rows are in the order of
    their lanes, so a rank reads only its own lanes.

Rows are computed, not stored: no array here is as long as the epoch, and ``window`` holds three
integers per block.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.kernels.base import kernel, mix, part
from cinic_shards.codec.kernels.permutation import (
    feistel,
    feistel_masks,
    permute,
    round_keys,
)
from cinic_shards.errors import OptionError
from cinic_shards.options import one_of

Order = Literal["window", "full"]
Tail = Literal["drop", "short", "pad"]

_MIN_LANES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPlan:
    """One epoch's order of ``num_samples`` rows, for one rank.

    Raises:
        OptionError: a size, rank, seed, epoch or ``block_starts`` is invalid.
    """

    num_samples: int
    """Number of rows to visit, each once."""
    global_batch_size: int
    """Samples in a step over all ranks."""
    seed: int = 0
    epoch: int = 0
    shuffle: bool = True
    """False visits the rows in the order in which they are stored."""
    order: Order = "full"
    """How ``shuffle`` mixes: ``window`` or ``full``."""
    block_starts: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    """First row of each of B blocks, then ``num_samples``: shape (B + 1,). ``window`` needs it."""
    tail: Tail = "drop"
    """Treatment of a last step that is not full: ``drop`` it, keep it ``short``, or ``pad`` each
    rank's part with rows that do not count."""
    rank: int = 0
    world_size: int = 1
    num_lanes: int = field(init=False, default=0)
    """L of the order ``window``; it depends on the number of blocks and G only."""
    _keys: NDArray[np.uint64] = field(init=False, repr=False, compare=False)
    _blocks: "_Blocks | None" = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of("order", self.order, Order)
        one_of("tail", self.tail, Tail)
        if self.num_samples < 0 or self.global_batch_size < 1 or self.world_size < 1:
            raise OptionError(
                f"num_samples={self.num_samples}, global_batch_size={self.global_batch_size}, "
                f"world_size={self.world_size}: expected at least 0, 1 and 1"
            )
        if not 0 <= self.rank < self.world_size:
            raise OptionError(
                f"rank={self.rank}: expected 0 to {self.world_size - 1}, with world_size="
                f"{self.world_size}"
            )
        if not (0 <= self.seed < 2**64 and 0 <= self.epoch < 2**64):
            raise OptionError(
                f"seed={self.seed}, epoch={self.epoch}: expected integers from 0 to 2**64 - 1"
            )
        if not (self.shuffle and self.order == "window"):
            object.__setattr__(self, "_keys", round_keys("full", self.seed, self.epoch))
            return
        block_keys = round_keys("blocks", self.seed, self.epoch)
        blocks = _lay_blocks(self.num_samples, self.block_starts, block_keys)
        lanes = max(_MIN_LANES, self.global_batch_size // 8)
        lanes = min(len(blocks.order), self.global_batch_size, lanes)
        object.__setattr__(self, "num_lanes", lanes)
        object.__setattr__(self, "_keys", round_keys("window", self.seed, self.epoch))
        object.__setattr__(self, "_blocks", blocks)

    def __len__(self) -> int:
        """Return the number of steps in the epoch, the same on every rank."""
        full, rest = divmod(self.num_samples, self.global_batch_size)
        return full + (1 if rest and self.tail != "drop" else 0)

    def num_valid(self, step: int) -> tuple[int, int]:
        """Return the number of a step's valid samples: on this rank, and on all ranks together.

        Raises:
            IndexError: the epoch has no such step.
        """
        start, stop = self.positions(step)
        first = step * self.global_batch_size
        return stop - start, min(self.global_batch_size, self.num_samples - first)

    def positions(self, step: int) -> tuple[int, int]:
        """Return start and stop of this rank's part of a step in the global sequence.

        In the order ``window``, the step's positions are sorted by lane before they are divided.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        start = step * self.global_batch_size
        count = min(self.global_batch_size, self.num_samples - start)
        first, stop = part_of(count, self.rank, self.world_size)
        return start + first, start + stop

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the rows of this rank's part of a step, int64, shape (N,), in batch order.

        With ``tail="pad"``, only the first ``num_valid(step)[0]`` rows are valid. The rest repeats
        them, or the step's first row if this rank has no valid row.

        Raises:
            IndexError: the epoch has no such step.
        """
        start, stop = self.positions(step)
        rows = self._rows_at(step, start, stop)
        if self.tail != "pad":
            return rows
        first, stop = part_of(self.global_batch_size, self.rank, self.world_size)
        missing = stop - first - len(rows)
        if missing > 0:
            again = rows
            if len(rows) == 0:
                first = step * self.global_batch_size
                again = self._rows_at(step, first, first + 1)
            rows = np.concatenate([rows, np.resize(again, missing)])
        return rows

    def _rows_at(self, step: int, start: int, stop: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(start, stop)
        out = np.empty(stop - start, np.int64)
        if self._blocks is None:
            permute(start, self.num_samples, self._keys, out)
        else:
            first = step * self.global_batch_size
            last = min(first + self.global_batch_size, self.num_samples)
            window_rows(
                first, last, start - first, self.num_samples, self.num_lanes, *self._blocks,
                self._keys, out,
            )  # fmt: skip
        return out

    def last_steps(self) -> NDArray[np.int64]:
        """Return the last step in which any rank needs each block: int64, shape (B,).

        Requires ``block_starts``.
        """
        starts = self.block_starts
        assert starts is not None
        out = np.empty(len(starts) - 1, np.int64)
        if not self.shuffle:
            out[:] = (starts[1:] - 1) // self.global_batch_size
        elif self._blocks is None:
            out[:] = len(self)
        else:
            order, sequence_starts = self._blocks.order, self._blocks.sequence_starts
            _last_positions(self.num_samples, self.num_lanes, order, sequence_starts, out)
            out //= self.global_batch_size
        return out


def part_of(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return start and stop of a rank's part of ``count`` samples; parts differ by at most one."""
    return count * rank // world_size, count * (rank + 1) // world_size


class _Blocks(NamedTuple):
    """The B blocks of the order ``window``, as arrays for kernels."""

    starts: NDArray[np.int64]
    """First row of each block, then the number of rows: shape (B + 1,)."""
    order: NDArray[np.int64]
    """A permutation of range(B), shape (B,)."""
    sequence_starts: NDArray[np.int64]
    """Start of each block of ``order`` in the sequence, then its end: shape (B + 1,)."""


def _lay_blocks(
    num_samples: int, starts: NDArray[np.int64] | None, keys: NDArray[np.uint64]
) -> _Blocks:
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
    return _Blocks(starts, order, sequence_starts)


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


@part
def _find_block(position, block_starts, order, sequence_starts):
    """Find the block at a position of the sequence: its number, start there, first row and rows."""
    k = np.searchsorted(sequence_starts, position, side="right") - 1
    number = order[k]
    first = block_starts[number]
    return number, sequence_starts[k], first, block_starts[number + 1] - first


@kernel
def window_rows(
    first, stop, skip, size, num_lanes, block_starts, order, sequence_starts, keys, out
):
    """Write the rows of a step's positions [first, stop) to ``out``, in the order of their lanes.

    The first ``skip`` rows are left out; then ``out``, int64, is filled. The sequence has ``size``
    rows. For ``block_starts``, ``order`` and ``sequence_starts`` see ``_Blocks``.
    """
    written = 0
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
    for lane in range(first_lane, num_lanes):
        offset = first_offset + (1 if lane < first_rest else 0) + skip
        stop_in_lane = stop_offset + (1 if lane < stop_rest else 0)
        skip = max(0, offset - stop_in_lane)
        start = lane * each + min(lane, longer)
        end = start + each + (1 if lane < longer else 0)
        begin, num_rows = 0, 0
        while offset < stop_in_lane and written < len(out):
            position = start + offset if lane % 2 == 0 else end - 1 - offset
            if not begin <= position < begin + num_rows:
                number, begin, first_row, num_rows = _find_block(
                    position, block_starts, order, sequence_starts
                )
                low_bits, low_mask, high_mask = feistel_masks(num_rows)
                tweak = mix(np.uint64(number) + np.uint64(0x9E3779B97F4A7C15))
            out[written] = first_row + feistel(
                position - begin, num_rows, low_bits, low_mask, high_mask, keys, tweak
            )
            written += 1
            offset += 1
        if written == len(out):
            return


@kernel
def _last_positions(size, num_lanes, order, sequence_starts, out):
    """Write each block's last global position to ``out``, int64, shape (B,)."""
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
            out[number] = max(out[number], offset * num_lanes + other)
            other += 1
