"""Which sample at which step on which rank: pure integers, and the only randomness.

One *global* sequence of rows per (seed, epoch) is defined without reference to ranks, workers or
where the data lies. Step s is positions [s G, (s + 1) G) of it, G the global batch; rank r of W
takes [n r // W, n (r + 1) // W) of a step's n positions. There are two shuffled orders:

``full``
    A keyed permutation of all rows.

``window``
    Blocks in a keyed random order, the rows of each permuted among themselves, make one sequence.
    It is cut into L *lanes* of equal length, and position p is the (p // L)-th row of lane p mod L:
    a batch takes a few rows of each lane, so it mixes L random blocks, and a reader holds about L
    of them. Even lanes are read forwards, odd ones backwards: where one lane ends, the next one
    ends too, so that both use the block that they share at the same time, and it is read once.
    Within a batch, rows are in the order of their lanes: a rank reads its own lanes alone.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import OptionError
from cinic_shards.kernels import kernel, mix

PLAN_VERSION = 1
ORDERS = ("window", "full")
TAILS = ("drop", "short")

_NUM_ROUNDS = 8
_MIN_LANES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPlan:
    """One epoch's order over ``num_samples`` rows, as one rank sees it."""

    num_samples: int
    """Rows to visit, each once."""
    global_batch_size: int
    """Samples a step over all ranks."""
    seed: int = 0
    epoch: int = 0
    shuffle: bool = True
    """False visits the rows as they are stored."""
    order: str = "full"
    """How ``shuffle`` mixes: ``window`` or ``full``."""
    block_starts: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    """First row of each of B blocks, then ``num_samples``: shape (B + 1,). ``window`` needs it."""
    tail: str = "drop"
    """What becomes of a last step that is not full: ``drop``, or ``short`` to keep it."""
    rank: int = 0
    world_size: int = 1
    num_lanes: int = field(init=False, default=0)
    """L of the order ``window``; a function of blocks and G alone."""
    _keys: NDArray[np.uint64] = field(init=False, repr=False, compare=False)
    _block_order: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _sequence_starts: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    """Where each block of ``_block_order`` begins in the sequence, then its end."""

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise OptionError(f"order={self.order!r}: expected one of {', '.join(ORDERS)}")
        if self.tail not in TAILS:
            raise OptionError(f"tail={self.tail!r}: expected one of {', '.join(TAILS)}")
        if self.num_samples < 0 or self.global_batch_size < 1 or self.world_size < 1:
            raise OptionError("sizes must be positive")
        if not 0 <= self.rank < self.world_size:
            raise OptionError(f"rank {self.rank} is not below world size {self.world_size}")
        if not (0 <= self.seed < 2**64 and 0 <= self.epoch < 2**64):
            raise OptionError("seed and epoch must be from 0 to 2**64 - 1")
        if self.shuffle and self.order == "window":
            self._lay_lanes()
        else:
            object.__setattr__(self, "_keys", _round_keys("full", self.seed, self.epoch))

    def _lay_lanes(self) -> None:
        starts = self.block_starts
        if (
            starts is None
            or len(starts) < 1
            or starts[0] != 0
            or starts[-1] != self.num_samples
            or (starts[1:] <= starts[:-1]).any()
        ):
            raise OptionError(f"block_starts {starts}: expected 0, rising, to {self.num_samples}")
        num_blocks = len(starts) - 1
        order = np.empty(num_blocks, np.int64)
        permute(0, num_blocks, _round_keys("blocks", self.seed, self.epoch), order)
        lanes = min(
            num_blocks, self.global_batch_size, max(_MIN_LANES, self.global_batch_size // 8)
        )
        for name, value in (
            ("num_lanes", lanes),
            ("_keys", _round_keys("window", self.seed, self.epoch)),
            ("_block_order", order),
            ("_sequence_starts", np.concatenate([[0], np.cumsum(np.diff(starts)[order])])),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Steps of the epoch, the same on every rank."""
        full, rest = divmod(self.num_samples, self.global_batch_size)
        return full + (1 if rest and self.tail == "short" else 0)

    def positions(self, step: int) -> tuple[int, int]:
        """Start and stop of this rank's part of a step in the global sequence.

        In the order ``window`` that part is of the step's positions in the order of their lanes.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        start = step * self.global_batch_size
        count = min(self.global_batch_size, self.num_samples - start)
        return (
            start + count * self.rank // self.world_size,
            start + count * (self.rank + 1) // self.world_size,
        )

    def rows(self, step: int) -> NDArray[np.int64]:
        """The rows of this rank's part of a step, int64, in batch order."""
        start, stop = self.positions(step)
        if not self.shuffle:
            return np.arange(start, stop)
        out = np.empty(stop - start, np.int64)
        if self.order == "full":
            permute(start, self.num_samples, self._keys, out)
        else:
            assert self.block_starts is not None
            first = step * self.global_batch_size
            window_rows(
                first,
                min(first + self.global_batch_size, self.num_samples),
                start - first,
                self.num_lanes,
                self.block_starts,
                self._block_order,
                self._sequence_starts,
                self._keys,
                out,
            )
        return out

    def last_steps(self) -> NDArray[np.int64]:
        """The last step that any rank reads each block for: int64, shape (B,).

        Beyond it nobody needs the block in this epoch. Needs ``block_starts``.
        """
        starts = self.block_starts
        assert starts is not None
        out = np.empty(len(starts) - 1, np.int64)
        if not self.shuffle:
            out[:] = (starts[1:] - 1) // self.global_batch_size
        elif self.order == "full":
            out[:] = len(self)
        else:
            _last_positions(
                self.num_samples, self.num_lanes, self._block_order, self._sequence_starts, out
            )
            out //= self.global_batch_size
        return out


def _round_keys(purpose: str, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Round keys of one permutation: BLAKE2b over plan version, purpose, seed and epoch."""
    text = f"cinic-shards plan {PLAN_VERSION} {purpose} seed {seed} epoch {epoch}"
    digest = hashlib.blake2b(text.encode(), digest_size=8 * _NUM_ROUNDS).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


@kernel
def permute(start, size, keys, out):
    """Where a keyed permutation of range(size) sends start, start + 1, ...: into ``out`` int64.

    A Feistel network permutes the numbers of the fewest bits that hold ``size``; a result beyond
    ``size`` is sent through again, which ends because the network is a permutation. The two
    parts of a number differ by a bit where the bits are odd: each round changes one of them by a
    function of the other, so it can be undone.
    """
    low_bits, low_mask, high_mask = _feistel_masks(size)
    for i in range(len(out)):
        out[i] = _feistel(start + i, size, low_bits, low_mask, high_mask, keys, np.uint64(0))


@kernel
def _feistel_masks(size):
    bits = np.uint64(0)
    while bits < 63 and (np.int64(1) << np.int64(bits)) < size:
        bits += np.uint64(1)
    low_bits = bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    return low_bits, low_mask, high_mask


@kernel
def _feistel(number, size, low_bits, low_mask, high_mask, keys, tweak):
    """Where the permutation of range(size) with these keys and this tweak sends a number."""
    x = np.uint64(number)
    while True:
        low = x & low_mask
        high = x >> low_bits
        for pair in range(0, len(keys), 2):
            high ^= _round(low ^ keys[pair] ^ tweak) & high_mask
            low ^= _round(high ^ keys[pair + 1] ^ tweak) & low_mask
        x = (high << low_bits) | low
        if x < np.uint64(size):
            return np.int64(x)


@kernel
def _round(x):
    """The upper half of a product: every bit of the number and of its key has a part in it."""
    return (x * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)


@kernel
def _lane_start(lane, size, num_lanes):
    """Where a lane begins in the sequence: the first ``size`` mod L lanes hold one row more."""
    return lane * (size // num_lanes) + min(lane, size % num_lanes)


@kernel
def window_rows(
    first, stop, skip, num_lanes, block_starts, block_order, sequence_starts, keys, out
):
    """The rows of a step's positions [first, stop), in the order of their lanes, into ``out``.

    The first ``skip`` of them are left out; as many follow as ``out``, int64, holds.
    """
    size = sequence_starts[-1]
    written = 0
    for lane in range(num_lanes):
        position = first + (lane - first) % num_lanes  # the lane's first one in this step
        count = (stop - position + num_lanes - 1) // num_lanes if position < stop else 0
        if skip >= count:
            skip -= count
            continue
        position += skip * num_lanes
        skip = 0
        start = _lane_start(lane, size, num_lanes)
        end = _lane_start(lane + 1, size, num_lanes)
        block = -1
        while position < stop and written < len(out):
            offset = position // num_lanes
            place = start + offset if lane % 2 == 0 else end - 1 - offset
            if block < 0 or not sequence_starts[block] <= place < sequence_starts[block + 1]:
                block = np.searchsorted(sequence_starts, place, side="right") - 1
                number = block_order[block]
                block_size = block_starts[number + 1] - block_starts[number]
                low_bits, low_mask, high_mask = _feistel_masks(block_size)
                tweak = mix(np.uint64(number) + np.uint64(0x9E3779B97F4A7C15))
            out[written] = block_starts[number] + _feistel(
                place - sequence_starts[block],
                block_size,
                low_bits,
                low_mask,
                high_mask,
                keys,
                tweak,
            )
            written += 1
            position += num_lanes
        if written == len(out):
            return


@kernel
def _last_positions(size, num_lanes, block_order, sequence_starts, out):
    """The last global position that lies in each block, into ``out`` int64 (B,)."""
    out[:] = -1
    lane = 0
    for block in range(len(block_order)):
        begin, end = sequence_starts[block], sequence_starts[block + 1]
        while _lane_start(lane + 1, size, num_lanes) <= begin:
            lane += 1
        other = lane
        while other < num_lanes and _lane_start(other, size, num_lanes) < end:
            start = _lane_start(other, size, num_lanes)
            stop = _lane_start(other + 1, size, num_lanes)
            backwards = stop - 1 - max(begin, start)
            offset = backwards if other % 2 else min(end, stop) - 1 - start
            number = block_order[block]
            out[number] = max(out[number], offset * num_lanes + other)
            other += 1
