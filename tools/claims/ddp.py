"""Do four processes under torchrun train and evaluate in step, and count every sample once?

A DDP model on the CPU with gloo: two epochs of training with a tail that is short (its gradients
scaled by ``loss_scale``), then an evaluation with ``tail="pad"``. All ranks must end, their weights
must be equal, and be those that one process gets from the same global batches. The all-reduced
count must be the split's size, and the right answers what one process counts with these weights.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from claim import Claim

PROCESSES = 4
BAR_SECONDS = 600
RUN = """
import hashlib, json, os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from cinic_shards import Augment, ShardLoader

def evaluate(model, loader):
    counts = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        for batch in loader:
            is_right = model(batch.images).argmax(1) == batch.labels
            counts += torch.stack([is_right[batch.valid].sum(), batch.valid.sum()])
    return counts

def train(model, **world):
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    loader = ShardLoader(shards, split="train", global_batch_size=510, tail="short",
                         augment=Augment(), **world)
    steps = 0
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            loss = torch.nn.functional.cross_entropy(model(batch.images), batch.labels)
            optimizer.zero_grad()
            (loss * batch.loss_scale).backward()
            optimizer.step()
            steps += 1
    return loader, steps

def new_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))

shards, out = sys.argv[1:]
dist.init_process_group("gloo")
torch.set_num_threads(1)
model = DistributedDataParallel(new_model())
loader, steps = train(model)
options = dict(split="test", global_batch_size=502, tail="pad", shuffle=False, normalize=True)
counts = evaluate(model.module, ShardLoader(shards, **options))
dist.all_reduce(counts)
weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
said = {"steps": steps, "weights": hashlib.sha256(weights).hexdigest()}
everyone = [None] * dist.get_world_size()
dist.all_gather_object(everyone, said)
if dist.get_rank() == 0:
    alone = evaluate(model.module, ShardLoader(shards, rank=0, world_size=1, **options))
    single = new_model()
    train(single, rank=0, world_size=1)
    difference = max(
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(model.parameters(), single.parameters())
    )
    with open(out, "w") as file:
        json.dump({"ranks": everyone, "counts": counts.tolist(), "alone": alone.tolist(),
                   "difference": difference,
                   "size": loader.dataset.manifest.split("test").num_samples}, file)
dist.barrier()  # torch may abort a process that leaves while others still talk
dist.destroy_process_group()
"""


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        shards, out = claim.pack("shards"), claim.scratch / "out.json"
        script = claim.scratch / "train.py"
        script.write_text(RUN)
        torchrun = Path(sys.executable).with_name("torchrun")
        start = time.perf_counter()
        command = [torchrun, "--standalone", f"--nproc-per-node={PROCESSES}", script, shards, out]
        done = subprocess.run(list(map(str, command)), timeout=BAR_SECONDS)
        found = json.loads(out.read_text()) if done.returncode == 0 else {}
        ranks = found.get("ranks", [])
        claim.report(
            figure={
                "counted": found.get("counts", [0, 0])[1],
                "of": found.get("size"),
                "ranks that ended with equal steps and weights": len(ranks),
            },
            bar="every sample once, on all four ranks; the weights of one process but for rounding "
            "(1e-3 of the largest one)",
            holds=done.returncode == 0
            and len(ranks) == PROCESSES
            and all(rank == ranks[0] for rank in ranks)
            and found["counts"] == found["alone"]
            and found["difference"] <= 1e-3
            and found["counts"][1] == found["size"],
            right_of_all_ranks_and_of_one=[found.get("counts"), found.get("alone")],
            ranks=ranks[:1],
            difference_from_one_process=found.get("difference"),
            seconds=round(time.perf_counter() - start),
        )


if __name__ == "__main__":
    main()
