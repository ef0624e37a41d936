"""A rank of a node: two epochs from S3; writes its batches, and what it fetched.

node.py URL OUT BATCH EPOCHS OPTIONS
"""

import hashlib
import json
import sys
from collections import Counter
from typing import Any

import torch.distributed as dist

from cinic_shards import Augment, ShardLoader
from cinic_shards.store.remote import RemoteStore

FETCHED: Counter[str] = Counter()
"""Ranges that were read, as ``name start stop``."""
read_range = RemoteStore.read_range


def counted(self: RemoteStore, name: str, start: int, stop: int) -> Any:
    """Read a range, and count it."""
    FETCHED[f"{name} {start} {stop}"] += 1
    return read_range(self, name, start, stop)


def main() -> None:
    """Run one rank."""
    url, out, batch_size, epochs, options = sys.argv[1:]
    RemoteStore.read_range = counted  # type: ignore[method-assign]
    dist.init_process_group("gloo")
    loader = ShardLoader(
        url,
        global_batch_size=int(batch_size),
        augment=Augment(),
        **json.loads(options),
    )
    said: list[Any] = [dict(FETCHED)]
    for epoch in range(int(epochs)):
        FETCHED.clear()
        loader.set_epoch(epoch)
        steps = []
        for batch in loader:
            images = batch.images.contiguous().numpy()
            steps.append([batch.indices.tolist(), hashlib.blake2b(images.data).hexdigest()])
        said.append({"steps": steps, "fetched": dict(FETCHED)})
        dist.barrier()
    with open(f"{out}/{dist.get_rank()}.json", "w") as file:
        json.dump(said, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
