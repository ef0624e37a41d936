"""Which sample at which step on which rank: pure integers, and the only randomness.

One *global* sequence of rows per (seed, epoch) is defined without reference to ranks, workers or
where the data lies. Step s is positions [s G, (s + 1) G) of it, G the global batch; rank r of W
takes [n r // W, n (r + 1) // W) of a step's n positions.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import OptionError
from cinic_shards.kernels import kernel

PLAN_VERSION = 1
ORDERS = ("full",)
TAILS = ("drop", "short")

_NUM_ROUNDS = 8


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
    """How ``shuffle`` mixes: ``full`` is a keyed permutation of all rows."""
    tail: str = "drop"
    """What becomes of a last step that is not full: ``drop``, or ``short`` to keep it."""
    rank: int = 0
    world_size: int = 1

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

    def __len__(self) -> int:
        """Steps of the epoch, the same on every rank."""
        full, rest = divmod(self.num_samples, self.global_batch_size)
        return full + (1 if rest and self.tail == "short" else 0)

    def positions(self, step: int) -> tuple[int, int]:
        """Start and stop of this rank's part of a step in the global sequence."""
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
        permute(start, self.num_samples, _keys(self.seed, self.epoch), out)
        return out


def _keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    """Round keys of one epoch's permutation: BLAKE2b over plan version, seed and epoch."""
    text = f"cinic-shards plan {PLAN_VERSION} full seed {seed} epoch {epoch}"
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
    bits = np.uint64(0)
    while bits < 63 and (np.int64(1) << np.int64(bits)) < size:
        bits += np.uint64(1)
    low_bits = bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    for i in range(len(out)):
        x = np.uint64(start + i)
        while True:
            low = x & low_mask
            high = x >> low_bits
            for pair in range(0, len(keys), 2):
                high ^= _mix(low ^ keys[pair]) & high_mask
                low ^= _mix(high ^ keys[pair + 1]) & low_mask
            x = (high << low_bits) | low
            if x < np.uint64(size):
                break
        out[i] = np.int64(x)


@kernel
def _mix(x):
    """The output function of SplitMix64 (Steele, Lea, Flood 2014): every bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
