"""Two epochs that are killed and resumed; prints a hash a batch.

    resume.py SHARDS STATE OPTIONS RUNS

RUNS is a list of [world, steps]. Each run is a process, forked from this one, which imports the
package and makes no loader. All ranks run side by side in it, and their parts are joined. A run
resumes from STATE if that exists, and writes it after each step. After so many steps it sends
itself SIGKILL, with batches under way; with 0 it runs to the end and removes STATE.
"""

import hashlib
import json
import os
import signal
import sys
import time
from typing import Any

import torch

from cinic_shards import Augment, ShardLoader, Subset

EPOCHS = 2


def run(shards: str, state_path: str, options: dict[str, Any], world: int, num_steps: int) -> None:
    """Run until it is killed, or to the end."""
    state = None

    def make(rank: int) -> ShardLoader:
        augment = Augment()
        loader = ShardLoader(
            shards, global_batch_size=128, augment=augment, rank=rank, world_size=world, **options
        )
        if state is not None:
            loader.load_state_dict(state)
        return loader

    if os.path.exists(state_path):
        start = time.perf_counter()
        with open(state_path) as file:
            state = json.load(file)
        next(iter(make(0)), None)  # as one rank alone would
        print("seconds", time.perf_counter() - start, flush=True)
    ranks = [make(rank) for rank in range(world)]
    step = 0
    while ranks[0].epoch < EPOCHS:
        for batches in zip(*ranks, strict=True):
            digest = hashlib.blake2b(digest_size=16)
            for name in ("indices", "labels", "images"):
                joined = torch.cat([getattr(batch, name) for batch in batches])
                digest.update(joined.contiguous().numpy().data)
            print("batch", digest.hexdigest(), flush=True)
            step += 1
            if num_steps:
                with open(state_path, "w") as file:
                    json.dump(ranks[0].state_dict(), file)
                if step == num_steps:
                    os.kill(os.getpid(), signal.SIGKILL)
    if state:
        os.remove(state_path)


def main() -> None:
    """Fork a process for each run, and print how it ended."""
    shards, state_path, options_text, runs = sys.argv[1:]
    options = json.loads(options_text)
    if "subset" in options:
        options["subset"] = Subset(**options["subset"])
    for world, num_steps in json.loads(runs):
        child = os.fork()
        if not child:
            run(shards, state_path, options, world, num_steps)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("exit", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
