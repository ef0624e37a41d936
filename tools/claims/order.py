"""How much do all ranks together read, and how many blocks does each hold, in the order window?

Simulated: an epoch in which each rank reads a block when it first needs it, and holds it until it
needs it no more. CINIC-10's 270,000 samples with G = 512, and 10,000 blocks of 1,024 samples with
G = 8,192, which has 1,024 lanes. No tree is read. Shuffle quality beside it, against numpy's
permutation: the blocks and classes that a batch mixes, how far samples move from where they are
stored, and how many of a batch's samples are stored next to one another.
"""

from dataclasses import dataclass

import numpy as np
from claim import Claim
from numpy.typing import NDArray

from cinic_shards.loader.plan import EpochPlan

BLOCK_SIZE = 1024
BAR = 1.3


@dataclass(frozen=True, slots=True)
class Case:
    """One dataset, and the worlds that read it."""

    num_samples: int
    global_batch_size: int
    worlds: tuple[int, ...]

    def plan(self) -> EpochPlan:
        """The epoch as one process sees it, whose steps all ranks share."""
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
    """Bytes read by all ranks, as a share of the dataset's; and the most blocks that one holds."""
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
    read = float(((first >= 0) * sizes).sum() / case.num_samples)
    used = first >= 0
    begins, ends = (
        [np.bincount(steps[rank][used[rank]], minlength=len(alone)) for rank in range(world_size)]
        for steps in (first, last)
    )
    # At the end of a step: begun so far, and of these not those that ended before it.
    held = max(
        int((np.cumsum(begun) - np.cumsum(ended) + ended).max())
        for begun, ended in zip(begins, ends, strict=True)
    )
    return read, held


def quality(case: Case, order: NDArray[np.int64]) -> dict[str, float]:
    """What 200 batches of an order mix: means."""
    size = case.global_batch_size
    mixed = np.random.default_rng(0).integers(0, 10, case.num_samples)  # as packing leaves classes
    unmixed = np.sort(mixed)

    def deviation(labels: NDArray[np.int64]) -> float:
        counts = [np.bincount(labels[batch], minlength=10).std() for batch in batches]
        return round(float(np.mean(counts)), 2)

    batches = [order[start : start + size] for start in range(0, 200 * size, size)]
    return {
        "blocks in a batch": float(np.mean([len(np.unique(b // BLOCK_SIZE)) for b in batches])),
        "deviation of a batch's class counts": deviation(mixed),
        "the same, were the shards sorted by class": deviation(unmixed),
        "distance moved, of all samples": round(
            float(np.abs(order - np.arange(len(order))).mean() / case.num_samples), 4
        ),
        "neighbours in a batch": round(
            float(np.mean([(np.diff(np.sort(b)) == 1).sum() for b in batches])), 2
        ),
    }


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        found = {
            name: {world: reads(case, world) for world in case.worlds}
            for name, case in CASES.items()
        }
        lanes = {name: case.plan().num_lanes for name, case in CASES.items()}
        case = CASES["270,000 samples, G = 512"]
        plan = case.plan()
        order = np.concatenate([plan.rows(step) for step in range(len(plan))])
        true = np.random.default_rng(1).permutation(case.num_samples)[: len(order)]
        window, permutation = quality(case, order), quality(case, true)
        distance = "distance moved, of all samples"
        claim.report(
            figure={
                name: {f"W = {world}": f"{read:.2f} x" for world, (read, _) in worlds.items()}
                for name, worlds in found.items()
            },
            bar=f"at most {BAR:g} x with no more ranks than lanes; a rank holds a block "
            "for each of its lanes and 3 more; a batch has 0.9 blocks a lane; samples move as far "
            "as in a permutation (5 %)",
            holds=all(
                held <= -(-lanes[name] // world) + 3
                for name, worlds in found.items()
                for world, (_, held) in worlds.items()
            )
            and window["blocks in a batch"] >= 0.9 * lanes["270,000 samples, G = 512"]
            and abs(window[distance] / permutation[distance] - 1) <= 0.05
            and all(
                read <= BAR
                for name, worlds in found.items()
                for world, (read, _) in worlds.items()
                if world <= lanes[name]
            ),
            lanes=lanes,
            blocks_held_by_a_rank={
                name: {f"W = {world}": held for world, (_, held) in worlds.items()}
                for name, worlds in found.items()
            },
            shuffle_quality={
                "window": window,
                "permutation": permutation,
                "as stored": quality(case, np.arange(case.num_samples)),
            },
        )


if __name__ == "__main__":
    main()
