"""Train with DistributedDataParallel: ``ddp_loop.py SHARDS FOLDER HOW STOP [resume]``.

HOW is ``torchrun``, or ``spawn-N``: ``mp.spawn`` with N ranks. The loader is made before the
process group. Two epochs; after STOP steps each rank ends, and rank 0 has saved its state.
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from seen import make_loader, make_model, train
from torch.nn.parallel import DistributedDataParallel

from cinic_shards import ShardLoader


def run(rank: int, loader: ShardLoader, folder: str, stop: int, resume: bool, world: int) -> None:
    """Be one rank."""
    rendezvous = {
        "init_method": f"file://{folder}/group{resume}",
        "rank": rank,
        "world_size": world,
    }
    dist.init_process_group("gloo", **(rendezvous if world else {}))
    rank = dist.get_rank()
    torch.set_num_threads(1)
    model = DistributedDataParallel(make_model())
    train(model, loader, folder, rank, stop, resume)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Start the ranks, or be one."""
    shards, folder, how, stop, *resume = sys.argv[1:]
    loader = make_loader(shards, workers=1)
    rest = (loader, folder, int(stop), bool(resume))
    if how == "torchrun":
        run(int(os.environ["RANK"]), *rest, 0)
    else:
        world = int(how.removeprefix("spawn-"))
        mp.spawn(run, args=(*rest, world), nprocs=world)


if __name__ == "__main__":
    main()
