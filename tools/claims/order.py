"""How much do all ranks together read, and how many blocks does each hold, in the order window?

Simulated: one epoch of 270,000 samples in blocks of 1,024 and G = 512 for several world sizes; each
rank reads a block when it first needs it, and holds it until it needs it no more. No tree is read.
Shuffle quality beside it: the blocks and the classes that a batch mixes, for CINIC-10's ten.
"""

import numpy as np
from claim import Claim
from numpy.typing import NDArray

from cinic_shards.plan import EpochPlan

NUM_SAMPLES, BLOCK_SIZE, GLOBAL_BATCH = 270_000, 1024, 512
WORLDS = (1, 2, 7, 8, 64, 256)
BARS = {1: 1.0, 8: 1.3, 7: 1.3, 64: 1.3}


def reads(starts: NDArray[np.int64], world_size: int) -> tuple[float, int]:
    """Bytes read by all ranks, as a share of the dataset's; and the most blocks that one holds."""
    num_blocks = len(starts) - 1
    first = np.full((world_size, num_blocks), -1)
    last = np.full((world_size, num_blocks), -1)
    plans = [
        EpochPlan(
            num_samples=NUM_SAMPLES,
            global_batch_size=GLOBAL_BATCH,
            order="window",
            block_starts=starts,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    for step in range(len(plans[0])):
        for rank, plan in enumerate(plans):
            blocks = np.unique(plan.rows(step) // BLOCK_SIZE)
            new = blocks[first[rank, blocks] < 0]
            first[rank, new] = step
            last[rank, blocks] = step
    sizes = np.diff(starts)
    read = ((first >= 0) * sizes).sum() / NUM_SAMPLES
    steps = np.arange(len(plans[0]))[:, None]
    held = max(
        int(((first[rank] <= steps) & (steps <= last[rank]) & (first[rank] >= 0)).sum(axis=1).max())
        for rank in range(world_size)
    )
    return float(read), held


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        starts = np.append(np.arange(0, NUM_SAMPLES, BLOCK_SIZE), NUM_SAMPLES)
        found = {world: reads(starts, world) for world in WORLDS}
        plan = EpochPlan(
            num_samples=NUM_SAMPLES,
            global_batch_size=GLOBAL_BATCH,
            order="window",
            block_starts=starts,
        )
        labels = np.random.default_rng(0).integers(0, 10, NUM_SAMPLES)  # packing mixes the classes
        blocks = [len(np.unique(plan.rows(step) // BLOCK_SIZE)) for step in range(len(plan))]
        spread = [np.bincount(labels[plan.rows(step)], minlength=10).std() for step in range(200)]
        true = np.random.default_rng(1).permutation(NUM_SAMPLES).reshape(-1)[: 200 * GLOBAL_BATCH]
        expected = [
            np.bincount(labels[part], minlength=10).std() for part in np.split(true, 200)
        ]  # fmt: skip
        claim.report(
            figure={f"W = {world}": f"{read:.2f} x" for world, (read, _) in found.items()},
            bar=", ".join(f"W = {world} at most {bar:g} x" for world, bar in BARS.items()),
            holds=all(found[world][0] <= bar for world, bar in BARS.items()),
            lanes=plan.num_lanes,
            blocks_held_by_a_rank={f"W = {world}": held for world, (_, held) in found.items()},
            blocks_in_a_batch=[int(np.min(blocks)), float(np.median(blocks)), int(np.max(blocks))],
            class_counts_deviation=[round(float(np.mean(spread)), 2), "of a true permutation",
                                    round(float(np.mean(expected)), 2)],
        )  # fmt: skip


if __name__ == "__main__":
    main()
