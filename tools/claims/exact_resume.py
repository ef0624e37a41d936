"""Is the rest of an epoch the same to the bit after ``kill -9`` at a random step, on any world?

A process trains nothing: it writes the state and a hash of each batch (ids, labels, pixels after
augmentation), and kills itself at a random step with batches under way. Fresh processes of another
world size go on from the state; their joined batches must have the hashes of an epoch that was
never stopped. Resuming is timed from making a rank's loader to its first batch.
"""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from claim import Claim

GLOBAL_BATCH = 128
KILLS = 50
WORLDS = (1, 2, 3, 8)
BAR_SECONDS = 1.0

RUN = """
import hashlib, json, os, signal, sys, time
import torch
from cinic_shards import Augment, ShardLoader, Subset

shards, world, state_path, kill_at, options = sys.argv[1:]
options = json.loads(options)
if "subset" in options:
    options["subset"] = Subset(**options["subset"])
def make(rank):
    loader = ShardLoader(shards, global_batch_size={batch}, augment=Augment(), rank=rank,
                         world_size=int(world), **options)
    if kill_at == "resume":
        loader.load_state_dict(state)
    return loader

if kill_at == "resume":
    start = time.perf_counter()
    state = json.load(open(state_path))
    next(iter(make(0)), None)  # as one rank alone would
    print("seconds", time.perf_counter() - start)
ranks = [make(rank) for rank in range(int(world))]
for number, step in enumerate(zip(*ranks, strict=True)):
    digest = hashlib.blake2b(digest_size=16)
    for name in ("indices", "labels", "images"):
        digest.update(torch.cat([getattr(batch, name) for batch in step]).contiguous().numpy().data)
    print("batch", digest.hexdigest(), flush=True)
    if kill_at.isdigit():
        with open(state_path, "w") as file:
            json.dump(ranks[0].state_dict(), file)
        if number == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def run(*arguments: Any, options: dict[str, Any]) -> dict[str, list[str]]:
    """What a process printed, by the first word of its lines."""
    code = RUN.format(batch=GLOBAL_BATCH)
    command = [sys.executable, "-c", code, *map(str, arguments), json.dumps(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    said: dict[str, list[str]] = {"exit": [str(done.returncode)]}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        said.setdefault(word, []).append(rest)
    return said


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        kinds: list[tuple[str, dict[str, Any]]] = [
            (str(claim.pack("raw", "--encoding", "raw")), {"order": "full", "tail": "short"}),
            (str(claim.pack("zstd", "--encoding", "zstd")), {"split": "train+valid"}),
            (str(claim.pack("png")), {"subset": {"origin": "imagenet"}, "order": "window"}),
        ]
        whole = [run(path, 1, "-", "no", options=options)["batch"] for path, options in kinds]
        chance = random.Random(0)
        state_path = claim.scratch / "state.json"
        problems: list[str] = []
        seconds: dict[str, list[float]] = {}
        start = time.perf_counter()
        for kill in range(KILLS):
            number = kill % len(kinds)
            path, options = kinds[number]
            at = chance.randrange(len(whole[number]))
            killed_world, world = chance.choice(WORLDS[:3]), chance.choice(WORLDS)
            state_path.unlink(missing_ok=True)
            killed = run(path, killed_world, state_path, at, options=options)
            resumed = run(path, world, state_path, "resume", options=options)
            for text in resumed.get("seconds", []):
                seconds.setdefault(Path(path).name, []).append(float(text))
            place = f"kill {kill}, {options}, step {at}, W {killed_world} -> {world}"
            if killed["exit"] != ["-9"] or resumed["exit"] != ["0"]:
                problems.append(f"{place}: exit {killed['exit']}, {resumed['exit']}")
            elif killed["batch"] + resumed.get("batch", []) != whole[number]:
                problems.append(f"{place}: other batches")
        slowest = max((max(of_kind) for of_kind in seconds.values()), default=0.0)
        claim.report(
            figure={
                "resumed runs that differ": f"{len(problems)} of {KILLS}",
                "seconds to resume, at most": round(slowest, 2),
            },
            bar=f"0, and at most {BAR_SECONDS:g} s",
            holds=not problems and slowest <= BAR_SECONDS,
            problems=problems[:5],
            batches_in_an_epoch=[len(batches) for batches in whole],
            seconds_to_resume={
                name: {"median": round(median(of_kind), 2), "max": round(max(of_kind), 2)}
                for name, of_kind in seconds.items()
            },
            seconds=round(time.perf_counter() - start),
        )


if __name__ == "__main__":
    main()
