"""Does any number of ranks and threads give the same global batches, each sample exactly once?

For each order, with and without a subset, over three epochs: the ranks' loaders run side by side,
each step's parts are joined and hashed (ids, labels, pixels after augmentation), and the hashes
of all worlds and thread counts must be equal. Samples that count must be those selected, once each.
"""

import hashlib
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from claim import Claim

from cinic_shards import Augment, ShardLoader, Subset
from cinic_shards.read.dataset import Dataset

WORLDS = (1, 2, 3, 5, 7, 8, 64)
THREADS = (1, 2, 3, 4)
EPOCHS = 3
GLOBAL_BATCH = 512
SUBSETS: dict[str, dict[str, Any]] = {
    "all": {"tail": "short"},
    "subset": {
        "subset": Subset(origin="imagenet", exclude_duplicates_of="test"),
        "tail": "pad",
    },
}


def selected(shards: Path, name: str) -> list[int]:
    """The ids of a subset of ``train``, found without the loader's own choosing."""
    columns = Dataset(shards).columns
    of_test = {
        bytes(h) for h, s in zip(columns.pixel_hash, columns.split, strict=True) if s == "test"
    }
    return [
        i
        for i, (split, origin, pixels) in enumerate(
            zip(columns.split, columns.origin, columns.pixel_hash, strict=True)
        )
        if split == "train"
        and (name == "all" or (origin == "imagenet" and bytes(pixels) not in of_test))
    ]


def epoch(ranks: list[ShardLoader]) -> tuple[str, list[int]]:
    """The hash of an epoch's global batches, and the ids that count."""
    digest = hashlib.blake2b(digest_size=16)
    ids: list[int] = []
    for step in zip(*ranks, strict=True):  # every rank must have the same number of steps
        for name in ("indices", "labels", "images"):
            joined = torch.cat([getattr(batch, name)[batch.valid] for batch in step])
            digest.update(joined.contiguous().numpy().data)
            if name == "indices":
                ids += joined.tolist()
        digest.update(b"end of a step")
    return digest.hexdigest(), ids


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        packed = {
            encoding: claim.pack(encoding, "--encoding", encoding, "--block-size", "128")
            for encoding in ("raw", "zstd")
        }
        expected_ids = {name: selected(packed["raw"], name) for name in SUBSETS}
        start = time.perf_counter()
        problems: list[str] = []
        num_epochs = 0
        hashes: dict[str, int] = {}
        for order, (name, subset) in itertools.product(("window", "full"), SUBSETS.items()):
            expected: list[str] = []
            kinds = [("raw", *kind) for kind in itertools.product(WORLDS, THREADS)]
            if order == "window":
                kinds += [("zstd", world, 2) for world in WORLDS]
            for encoding, world, threads in kinds:
                ranks = [
                    ShardLoader(
                        packed[encoding],
                        global_batch_size=GLOBAL_BATCH,
                        order=order,
                        augment=Augment(dtype="uint8"),
                        workers=threads,
                        rank=rank,
                        world_size=world,
                        check="off",
                        **subset,
                    )
                    for rank in range(world)
                ]
                for number in range(EPOCHS):
                    found, ids = epoch(ranks)
                    num_epochs += 1
                    if len(expected) == number:
                        expected.append(found)
                    if found != expected[number]:
                        problems.append(f"{order}, {name}, {encoding}, W={world}, {threads}: hash")
                    if sorted(ids) != expected_ids[name]:
                        problems.append(f"{order}, {name}, {encoding}, W={world}, {threads}: ids")
            hashes[f"{order}, {name}"] = len(set(expected))
        claim.report(
            figure=f"{len(problems)} of {num_epochs} epochs differ",
            bar="0; each sample once; 3 epochs, 3 orders",
            holds=not problems and set(hashes.values()) == {EPOCHS},
            different_epochs=hashes,
            problems=problems[:5],
            worlds=WORLDS,
            threads=THREADS,
            seconds=round(time.perf_counter() - start),
        )


if __name__ == "__main__":
    main()
