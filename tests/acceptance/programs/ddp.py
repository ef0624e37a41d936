"""A rank that trains two epochs and evaluates; rank 0 compares with what one process finds.

The tail of training is short (its gradients scaled by ``loss_scale``), that of evaluation padded.
"""

import hashlib
import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from cinic_shards import Augment, ShardLoader


def evaluate(model: torch.nn.Module, loader: ShardLoader) -> torch.Tensor:
    """How many are right, of how many."""
    counts = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        for batch in loader:
            is_right = model(batch.images).argmax(1) == batch.labels
            counts += torch.stack([is_right[batch.valid].sum(), batch.valid.sum()])
    return counts


def train(shards: str, model: torch.nn.Module, **world: int) -> int:
    """Train two epochs; return the number of steps."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    options: dict[str, Any] = {"global_batch_size": 510, "tail": "short", "augment": Augment()}
    loader = ShardLoader(shards, split="train", **options, **world)
    steps = 0
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            loss = torch.nn.functional.cross_entropy(model(batch.images), batch.labels)
            optimizer.zero_grad()
            (loss * batch.loss_scale).backward()
            optimizer.step()
            steps += 1
    return steps


def new_model() -> torch.nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))


def main() -> None:
    """Run one rank."""
    shards, out = sys.argv[1:]
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    model = DistributedDataParallel(new_model())
    steps = train(shards, model)
    options: dict[str, Any] = {"split": "test", "global_batch_size": 502, "tail": "pad",
                               "shuffle": False, "normalize": True}  # fmt: skip
    loader = ShardLoader(shards, **options)
    counts = evaluate(model.module, loader)
    dist.all_reduce(counts)
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, [steps, hashlib.sha256(weights).hexdigest()])
    if dist.get_rank() == 0:
        alone = evaluate(model.module, ShardLoader(shards, rank=0, world_size=1, **options))
        single = new_model()
        train(shards, single, rank=0, world_size=1)
        pairs = zip(model.parameters(), single.parameters(), strict=True)
        found = {
            "ranks": ranks,
            "counts": counts.tolist(),
            "alone": alone.tolist(),
            "difference": max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs),
            "size": loader.dataset.manifest.split("test").num_samples,
        }
        with open(out, "w") as file:
            json.dump(found, file)
    dist.barrier()  # torch may abort a process that leaves while others still talk
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
