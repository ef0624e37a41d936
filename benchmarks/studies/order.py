r"""How much do ranks read and hold in the order ``window``, and how well does it mix?

A simulation; no dataset is read. In an epoch, each rank reads a block when it first needs it, and
holds it as long as it needs it. Two cases: CINIC-10's 270,000 samples with a global batch G of 512,
and 10,000 blocks of 1,024 samples with G = 8,192, which gives 1,024 lanes. Then the shuffle's
quality, compared with numpy's permutation: the blocks and classes that a batch mixes, how far
samples move from their stored positions, and how many samples of a batch are stored next to each
other. Prints JSON lines.

    python -m benchmarks.studies.order

Result: if there are no more ranks than lanes, all ranks together read at most 1.24 times the
dataset, and a rank holds its lanes' blocks and two more. Samples move as far as in a permutation
(0.325 and 0.334 of the dataset on average). docs/order.md has the tables.
"""

import json
from dataclasses import dataclass

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

    def plan(self) -> EpochPlan:
        """Return the epoch's plan for a single process; several ranks divide its steps."""
        starts = np.append(np.arange(0, self.num_samples, BLOCK_SIZE), self.num_samples)
        return EpochPlan(
            num_samples=self.num_samples,
            global_batch_size=self.global_batch_size,
            order="window",
            block_starts=starts,
        )


CASES = {
    "270,000 samples, G = 512": Case(270_000, 512, (1, 2, 7, 8, 64, 256)),
    "10,000 blocks, G = 8,192": Case(10_000 * BLOCK_SIZE, 8192, (1, 7, 8, 64, 1024, 4096)),
}


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
