r"""How much do ranks read and hold in the order ``window``, and how well does it mix?

A simulation; no dataset is read. In an epoch, each rank reads a block when it first needs it, and
holds it as long as it needs it. Four parts, each printed as JSON lines:

- CINIC-10's 270,000 samples with a global batch G of 512, and 10,000 blocks of 1,024 samples with
  G = 8,192, which gives 1,024 lanes.
- Three runs whose G is not a multiple of the lanes of plan version 1, with both versions.
- Datasets of 90,000 to 100,000,000 samples on 2 to 8,192 ranks with twenty batch sizes, by the
  loader's own count (``EpochPlan.reading``), which the tests compare with the simulation; with what
  no plan can be below.
- The shuffle's quality, compared with numpy's permutation: the blocks and classes that a batch
  mixes, how far samples move from their stored positions, and how many samples of a batch are
  stored next to each other.

    python -m benchmarks.studies.order

Result: plan version 2 reads the least possible if the number of ranks is a power of two that is not
above the lanes; for other numbers the excess is at most the ranks' share of the lanes. Samples move
as far as in a permutation (0.325 and 0.334 of the dataset on average). docs/order.md has the
tables.
"""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks import argument_parser
from cinic_shards.loader.plan import EpochPlan

BLOCK_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Case:
    """A dataset, and the numbers of ranks that read it."""

    num_samples: int
    global_batch_size: int
    worlds: tuple[int, ...]
    version: int = 2
    """The plan's version."""

    def plan(self) -> EpochPlan:
        """Return the epoch's plan for a single process; several ranks divide its steps."""
        starts = np.append(np.arange(0, self.num_samples, BLOCK_SIZE), self.num_samples)
        return EpochPlan(
            num_samples=self.num_samples,
            global_batch_size=self.global_batch_size,
            order="window",
            block_starts=starts,
            version=self.version,
        )


CASES = {
    "270,000 samples, G = 512": Case(270_000, 512, (1, 2, 7, 8, 64, 256)),
    "10,000 blocks, G = 8,192": Case(10_000 * BLOCK_SIZE, 8192, (1, 7, 8, 64, 1024, 4096)),
}

AWKWARD = [
    Case(num_samples, world * batch, (world,), version)
    for num_samples, world, batch in (
        (10**6, 128, 96), (10**7, 1000, 256), (5 * 10**7, 1000, 512),
    )
    for version in (1, 2)
]  # fmt: skip
"""Runs whose global batch is not a multiple of the lanes of version 1."""

SIZES = (90_000, 10**6, 10**7, 10**8)
POWERS_OF_TWO = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
OTHER_WORLDS = (3, 6, 12, 24, 48, 96, 100, 192, 500, 768, 1000, 1536, 3000, 6000)
SMALL_BATCHES = (9, 12, 15, 20, 24)
BATCHES = (33, 37, 48, 50, 60, 96, 100, 127, 160, 192, 250, 300, 384, 500, 513)
"""Samples of each rank."""


def reads(case: Case, world_size: int) -> tuple[float, int]:
    """Return the share of the dataset that all ranks read together, and the most blocks held."""
    alone = case.plan()
    num_blocks = -(-case.num_samples // BLOCK_SIZE)
    first = np.full((world_size, num_blocks), -1, np.int32)
    last = np.full((world_size, num_blocks), -1, np.int32)
    for step in range(len(alone)):
        blocks = (alone.rows(step) // BLOCK_SIZE).astype(np.int32)
        size = len(blocks)
        bounds = size * np.arange(world_size + 1) // world_size
        rank = np.repeat(np.arange(world_size), np.diff(bounds))
        is_new = first[rank, blocks] < 0
        first[rank[is_new], blocks[is_new]] = step
        last[rank, blocks] = step
    sizes = np.full(num_blocks, BLOCK_SIZE)
    sizes[-1] = case.num_samples - BLOCK_SIZE * (num_blocks - 1)
    used = first >= 0
    read = float((used * sizes).sum() / case.num_samples)
    starts, ends = (
        [np.bincount(steps[rank][used[rank]], minlength=len(alone)) for rank in range(world_size)]
        for steps in (first, last)
    )
    # At the end of a step: blocks begun so far, without those that ended before it.
    held = max(
        int((np.cumsum(begun) - np.cumsum(ended) + ended).max())
        for begun, ended in zip(starts, ends, strict=True)
    )
    return read, held


def least(num_blocks: int, world_size: int) -> float:
    """Return the share of the dataset that ranks read at least, with any plan.

    Every rank needs N / W rows. Draw a line between a rank and each block that it reads. A group of
    w ranks and k blocks that are connected has at least w + k - 1 lines. If the blocks are of equal
    size, w N / W rows are those of k blocks only if w is a multiple of W / gcd(B, W). So there are
    at most gcd(B, W) groups, and at least B + W - gcd(B, W) lines: blocks read.
    """
    return (num_blocks + world_size - math.gcd(num_blocks, world_size)) / num_blocks


def worst_read(num_samples: int, world_size: int, batch_sizes: tuple[int, ...]) -> float:
    """Return the most that all ranks read together, with these batch sizes; 0 if none counts.

    A size counts if its batch is not larger than the dataset, with no more ranks than lanes.
    """
    worst = 0.0
    for batch in batch_sizes:
        if world_size * batch <= num_samples:
            alone = Case(num_samples, world_size * batch, ()).plan()
            found = replace(alone, world_size=world_size).reading(0)
            if found is not None and world_size <= alone.num_lanes:
                worst = max(worst, found.times_read_by_all)
    return round(worst, 3)


def quality(case: Case, order: NDArray[np.int64]) -> dict[str, float]:
    """Return means over the first 200 batches of an order."""
    size = case.global_batch_size
    mixed = np.random.default_rng(0).integers(0, 10, case.num_samples)  # as packing leaves classes

    def deviation(labels: NDArray[np.int64]) -> float:
        counts = [np.bincount(labels[batch], minlength=10).std() for batch in batches]
        return round(float(np.mean(counts)), 2)

    batches = [order[start : start + size] for start in range(0, 200 * size, size)]
    moved = np.abs(order - np.arange(len(order))).mean() / case.num_samples
    neighbours = np.mean([(np.diff(np.sort(batch)) == 1).sum() for batch in batches])
    return {
        "blocks in a batch": float(np.mean([len(np.unique(b // BLOCK_SIZE)) for b in batches])),
        "deviation of a batch's class counts": deviation(mixed),
        "the same, were the shards sorted by class": deviation(np.sort(mixed)),
        "distance moved, of all samples": round(float(moved), 4),
        "neighbours in a batch": round(float(neighbours), 2),
    }


def main() -> None:
    """Simulate all cases."""
    argument_parser(__doc__).parse_args()
    for name, case in CASES.items():
        lanes = case.plan().num_lanes
        for world in case.worlds:
            read, held = reads(case, world)
            row = {"ranks": world, "lanes": lanes, "read": round(read, 3), "blocks_held": held}
            print(json.dumps({"case": name, **row}), flush=True)
    for case in AWKWARD:
        (world,) = case.worlds
        read, held = reads(case, world)
        row = {"samples": case.num_samples, "G": case.global_batch_size, "ranks": world}
        row |= {"version": case.version, "lanes": case.plan().num_lanes}
        print(json.dumps({**row, "read": round(read, 3), "blocks_held": held}), flush=True)
    for num_samples in SIZES:
        for world in sorted(POWERS_OF_TWO + OTHER_WORLDS):
            row = {
                "samples": num_samples,
                "ranks": world,
                "least": round(least(-(-num_samples // BLOCK_SIZE), world), 3),
                "read": worst_read(num_samples, world, BATCHES),
                "read with a small batch": worst_read(num_samples, world, SMALL_BATCHES),
            }
            print(json.dumps(row), flush=True)
    case = CASES["270,000 samples, G = 512"]
    plan = case.plan()
    order = np.concatenate([plan.rows(step) for step in range(len(plan))])
    orders = {
        "window": order,
        "permutation": np.random.default_rng(1).permutation(case.num_samples)[: len(order)],
        "as stored": np.arange(case.num_samples),
    }
    for name, one in orders.items():
        print(json.dumps({"order": name, **quality(case, one)}), flush=True)


if __name__ == "__main__":
    main()
