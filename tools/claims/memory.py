"""How much memory does an epoch take, over that of torch, the lanes and the cache?

Each encoding and cache in a process of its own that has imported torch: two shuffled epochs of the
split train in batches of 512, uint8 and augmented float32, the kernels compiled before. Lanes are
L blocks of pixels, a cache the split's. What a process maps of the shards is the page cache's, not
its own: private memory is counted (Linux only).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from claim import COMMAND, Claim

BAR_MB = 300.0
CASES = [
    *(("png", "none"), ("zstd", "none"), ("raw", "none")),
    *(("png", "ram"), ("zstd", "ram")),
]


def private_mb() -> float:
    """This process's own memory now, in MB."""
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = [
        int(line.split()[1])
        for line in text.splitlines()
        if line.startswith(("Private_Dirty:", "Private_Hugetlb:"))
    ]
    return sum(kilobytes) * 1024 / 1e6


def run(shards: str, cache: Any, augmented: str) -> None:
    """Print the most private memory after a batch, and what lanes and cache account for."""
    import torch

    empty = private_mb()
    from cinic_shards import Augment, ShardLoader

    augment = Augment() if augmented == "yes" else None
    loader = ShardLoader(shards, batch_size=512, cache=cache, augment=augment)
    most = 0.0
    for _ in range(2):
        for number, _batch in enumerate(loader):
            if number % 10 == 0:
                most = max(most, private_mb())
    reader = loader._reader
    image = int(torch.tensor(reader.image_shape).prod())
    block = loader.dataset.manifest.block_size * image
    held = len(reader) * image if cache == "ram" else 0
    if not reader.reads_rows and cache == "none":
        held += loader._plan().num_lanes * block
    print(json.dumps([most - empty, held / 1e6]))


def main() -> None:
    """Run the claim."""
    if sys.argv[1:2] == ["--run"]:
        run(*sys.argv[2:])
        return
    with Claim(__doc__ or "") as claim:
        folders = {kind: claim.pack(kind, "--encoding", kind) for kind, _ in CASES[:3]}
        os.sync()  # or pages of the shards would be dirty, and count as this process's own
        subprocess.run([COMMAND, "warmup"], check=True, stdout=subprocess.DEVNULL)
        over = {}
        for kind, cache in CASES:
            for augmented in ("no", "yes"):
                command = [sys.executable, __file__, "--run", str(folders[kind]), cache, augmented]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                most, held = json.loads(done.stdout.splitlines()[-1])
                name = f"{kind}, cache {cache}, {'augmented' if augmented == 'yes' else 'uint8'}"
                over[name] = {"over": round(most - held), "lanes_and_cache": round(held)}
        largest = max(case["over"] for case in over.values())
        claim.report(
            figure=f"at most {largest} MB over lanes and cache",
            bar=f"at most {BAR_MB:g} MB",
            holds=largest <= BAR_MB,
            megabytes=over,
        )


if __name__ == "__main__":
    main()
