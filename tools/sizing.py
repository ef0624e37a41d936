r"""How many requests and bytes does an epoch from object storage take, on how many nodes?

    python tools/sizing.py --samples 10000000 --ranks 8 --batch-size 64 --nodes 1 10 100

The order of the epochs is computed, not estimated: a node fetches a block in one request when one
of its ranks first needs it. tests/acceptance compares this with what real nodes fetch.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinic_shards.format import block_starts
from cinic_shards.loader.plan import EpochPlan, Tail

BYTES_AN_IMAGE = {"png": 4_229, "zstd": 1_892, "raw": 3_144}
"""Encoding -> bytes an image of CINIC-10's shards."""
WEBDATASET_BYTES = 4_140
"""Bytes an image of stock webdataset's shards: png and cls members, ``mtime=0``."""
DOLLARS_A_MILLION, DOLLARS_A_GB = 0.40, 0.09
"""List prices of read requests, and of bytes that leave a region; within it bytes are free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes and ranks that read a dataset, and how."""

    num_samples: int
    block_size: int
    nodes: int
    ranks_a_node: int
    global_batch_size: int
    caches: bool
    """True if each node keeps the blocks that it fetches (``cache="disk"``, with room for all)."""
    tail: Tail = "drop"

    def plan(self, epoch: int) -> EpochPlan:
        """Return the epoch of a single process; the ranks share its steps."""
        return EpochPlan(
            num_samples=self.num_samples,
            global_batch_size=self.global_batch_size,
            order="window",
            block_starts=block_starts(self.num_samples, self.block_size),
            epoch=epoch,
            tail=self.tail,
        )

    def fetched(self, epochs: int) -> Iterator[NDArray[np.bool_]]:
        """Yield a mask of the blocks that each node fetches in an epoch, shape (nodes, blocks)."""
        num_blocks = -(-self.num_samples // self.block_size)
        held = np.zeros((self.nodes, num_blocks), np.bool_)
        for epoch in range(epochs):
            plan = self.plan(epoch)
            needed = np.zeros_like(held)
            for step in range(len(plan)):
                blocks = plan.rows(step) // self.block_size
                world = self.nodes * self.ranks_a_node
                bounds = len(blocks) * np.arange(0, world + 1, self.ranks_a_node) // world
                needed[np.repeat(np.arange(self.nodes), np.diff(bounds)), blocks] = True
            yield needed & ~held
            if self.caches:
                held |= needed


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=90_000, help="samples; default 90000")
    parser.add_argument("--encoding", choices=BYTES_AN_IMAGE, default="zstd")
    parser.add_argument("--bytes", type=float, help="bytes an image; default: CINIC-10's")
    parser.add_argument("--block-size", type=int, default=1024)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--ranks", type=int, default=8, help="ranks of a node; default 8")
    parser.add_argument("--batch-size", type=int, default=64, help="samples a rank; default 64")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dollars-a-million-requests", type=float, default=DOLLARS_A_MILLION)
    parser.add_argument("--dollars-a-gb", type=float, default=DOLLARS_A_GB)
    args = parser.parse_args()
    image_bytes = args.bytes or BYTES_AN_IMAGE[args.encoding]
    block_gb = image_bytes * args.block_size / 1e9

    def dollars(requests: float, gigabytes: float) -> float:
        a_million: float = args.dollars_a_million_requests
        a_gb: float = args.dollars_a_gb
        return requests / 1e6 * a_million + gigabytes * a_gb

    print(
        "| nodes | lanes | requests an epoch | GB an epoch, all nodes | of the dataset | USD "
        f"| cache: GB a node, epochs 1 / 2 / {args.epochs} |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for nodes in args.nodes:
        common = {
            "num_samples": args.samples,
            "block_size": args.block_size,
            "nodes": nodes,
            "ranks_a_node": args.ranks,
            "global_batch_size": nodes * args.ranks * args.batch_size,
        }
        cluster = Cluster(**common, caches=False)
        (fetched,) = cluster.fetched(1)
        requests = int(fetched.sum())
        kept = [
            new.sum() / nodes * block_gb
            for new in Cluster(**common, caches=True).fetched(args.epochs)
        ]
        gigabytes = requests * block_gb
        cells = [
            f"{nodes:,}",
            f"{cluster.plan(0).num_lanes:,}",
            f"{requests:,}",
            f"{gigabytes:,.2f}",
            f"{requests / fetched.shape[1]:.2f}",
            f"{dollars(requests, gigabytes):.2f}",
            " / ".join(f"{kept[at]:.3g}" for at in (0, 1, -1)),
        ]
        print(f"| {' | '.join(cells)} |")
    shards = -(-args.samples // (10 * args.block_size))
    size = args.samples * WEBDATASET_BYTES / 1e9
    print(
        f"\nstock webdataset, any number of nodes: {shards:,} requests, {size:,.2f} GB, "
        f"{dollars(shards, size):.2f} USD an epoch"
    )


if __name__ == "__main__":
    main()
