"""The order of an epoch: which rows each rank visits at each step, by integer arithmetic alone.

One *global* sequence of rows per (seed, epoch) is defined independently of ranks, workers and
where the data is. Step s is positions [s G, (s + 1) G) of it, with the global batch size G; each
rank takes its part of a step's positions. There are two shuffled orders:

``full``
    A keyed permutation of all rows.

``window``
    Blocks in a keyed random order, with the rows of each block permuted, make one sequence. It is
    cut into L *lanes*, and every step takes the next few rows of each lane, as many as in the step
    before. So a batch mixes L random blocks, and a reader holds about L blocks at a time. Even
    lanes are read forwards, odd lanes backwards: two neighbours both begin, or both end, at the
    block that they share, so it is read once. Within a batch, rows are in the order of their lanes,
    so a rank reads the same few lanes in all steps.

Rows are computed, not stored: no array here is as long as the epoch, and ``window`` holds three
integers per block.
"""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.kernels.permutation import permute, round_keys
from cinic_shards.errors import OptionError
from cinic_shards.loader import lanes, lanes_1
from cinic_shards.loader.lanes import Blocks, lay_blocks
from cinic_shards.options import one_of

Order = Literal["window", "full"]
Tail = Literal["drop", "short", "pad"]

_LANES: dict[int, ModuleType] = {1: lanes_1, 2: lanes}
"""Version of the plan -> the lanes of its order ``window``. The ranks' parts of a padded step also
differ."""

PLAN_VERSIONS = tuple(_LANES)
"""Versions of the plan. New loaders have the last one, states may have an earlier one."""


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
    version: int = max(PLAN_VERSIONS)
    """How ``window`` forms its lanes, and how ranks share a padded step."""
    num_lanes: int = field(init=False, default=0)
    """L of the order ``window``; it does not depend on the ranks."""
    _keys: NDArray[np.uint64] = field(init=False, repr=False, compare=False)
    _blocks: Blocks | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of("order", self.order, Order)
        one_of("tail", self.tail, Tail)
        if self.version not in PLAN_VERSIONS:
            raise OptionError(f"version={self.version}: expected one of {PLAN_VERSIONS}")
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
        blocks = lay_blocks(self.num_samples, self.block_starts, block_keys)
        num_lanes = self._lanes.num_lanes(len(blocks.order), self.global_batch_size)
        object.__setattr__(self, "num_lanes", num_lanes)
        object.__setattr__(self, "_keys", round_keys("window", self.seed, self.epoch))
        object.__setattr__(self, "_blocks", blocks)

    @property
    def _lanes(self) -> ModuleType:
        return _LANES[self.version]

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

        Rank r of W takes [n r // W, n (r + 1) // W) of a step's n positions. With ``tail="pad"``
        and G positions in a full step, it takes [G r // W n // G, G (r + 1) // W n // G), which is
        never more than in a full step; plan version 1 does not make this difference.

        In the order ``window``, the step's positions are sorted by lane before they are divided.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        start = step * self.global_batch_size
        count = min(self.global_batch_size, self.num_samples - start)
        first, stop = part_of(count, self.rank, self.world_size)
        if self.tail == "pad" and self.version > 1:
            full = part_of(self.global_batch_size, self.rank, self.world_size)
            first, stop = (one * count // self.global_batch_size for one in full)
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
            skip = start - step * self.global_batch_size
            self._lanes.window_rows(
                step, skip, self.num_samples, self.global_batch_size, self.num_lanes,
                *self._blocks, self._keys, out,
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
            size, batch = self.num_samples, self.global_batch_size
            self._lanes.last_steps(size, batch, self.num_lanes, order, sequence_starts, out)
        return out

    def reading(self, block_bytes: int) -> "Reading | None":
        """Return what the ranks read and hold; None for other orders, and in plan version 1.

        Counted from the lanes of each rank in full steps. A rank with only some rows of a lane may
        skip a block that is counted; in a last step that is not full it may need one more.

        Args:
            block_bytes: bytes of a decoded block.
        """
        if self._blocks is None or self.version == 1 or self.num_samples == 0:
            return None
        num_lanes, begin, end = lanes.lanes_of_ranks(
            self.num_samples, self.global_batch_size, self.num_lanes, self.world_size
        )
        starts = self._blocks.sequence_starts
        first = np.searchsorted(starts, begin, side="right") - 1
        stop = np.maximum(first, np.searchsorted(starts, end))
        rows = starts[stop] - starts[first]
        held = int(min(num_lanes[self.rank] + 1, stop[self.rank] - first[self.rank]))
        return Reading(
            times_read=float(rows[self.rank]) * self.world_size / self.num_samples,
            times_read_by_all=float(rows.sum()) / self.num_samples,
            blocks_held=held,
            bytes_held=held * block_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Estimate of what ranks that read entire blocks read and hold in an epoch.

    Example:
        >>> manifest = convert("shards", "small", encoding="zstd", block_size=16)
        >>> reading = ShardLoader("small", batch_size=16, rank=0, world_size=2).reading
        >>> round(reading.times_read, 2), reading.blocks_held, reading.bytes_held
        (1.07, 3, 147456)
    """

    times_read: float
    """Samples that this rank reads, as a multiple of its share of the samples."""
    times_read_by_all: float
    """Samples that all ranks together read, as a multiple of all samples."""
    blocks_held: int
    """Decoded blocks that this rank holds at a time, about."""
    bytes_held: int
    """Their bytes."""

    def __str__(self) -> str:
        return (
            f"reads {self.times_read:.2f} times its share of the samples (all ranks together "
            f"{self.times_read_by_all:.2f} times the dataset), and holds about "
            f"{self.blocks_held:,} blocks ({self.bytes_held / 1e6:,.1f} MB)"
        )


def part_of(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return start and stop of a rank's part of ``count`` samples; parts differ by at most one."""
    return count * rank // world_size, count * (rank + 1) // world_size
