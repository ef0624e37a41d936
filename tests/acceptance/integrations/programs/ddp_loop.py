"""Train with DistributedDataParallel: ``ddp_loop.py SHARDS FOLDER HOW STOP [resume]``.

HOW is ``torchrun``, or ``spawn-N``: ``mp.spawn`` with N ranks. The loader is made before the
process group. Two epochs; after STOP steps each rank ends, and rank 0 has saved its state.
"""

import json
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from seen import loss_of, make_loader, make_model, note
from torch.nn.parallel import DistributedDataParallel

from cinic_shards import ShardLoader


def train(rank: int, loader: ShardLoader, folder: str, stop: int, resume: bool, world: int) -> None:
    """Train one rank."""
    rendezvous = {
        "init_method": f"file://{folder}/group{resume}",
        "rank": rank,
        "world_size": world,
    }
    dist.init_process_group("gloo", **(rendezvous if world else {}))
    rank = dist.get_rank()
    torch.set_num_threads(1)
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    step = 0
    if resume:
        with open(f"{folder}/state.json") as file:
            loader.load_state_dict(json.load(file))
        step = stop
    while step < 2 * len(loader) and (resume or step < stop):
        for batch in loader:
            note(batch, rank)
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
            step += 1
            if step == stop:
                break
    if rank == 0 and not resume:
        with open(f"{folder}/state.json", "w") as file:
            json.dump(loader.state_dict(), file)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Start the ranks, or be one."""
    shards, folder, how, stop, *resume = sys.argv[1:]
    loader = make_loader(shards, workers=1)
    rest = (loader, folder, int(stop), bool(resume))
    if how == "torchrun":
        train(int(os.environ["RANK"]), *rest, 0)
    else:
        world = int(how.removeprefix("spawn-"))
        mp.spawn(train, args=(*rest, world), nprocs=world)


if __name__ == "__main__":
    main()
