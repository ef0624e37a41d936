"""Is the first batch of a fresh process there no later than ImageFolder's?

Seconds from the start of the interpreter to the first shuffled uint8 batch of 512 from the train
split, of ``png`` and of ``raw`` shards, imports included, page cache and compiled kernels warm.
ImageFolder with 0 and 2 workers, the better counts. The contenders in turn, medians.
"""

import statistics
import subprocess
import sys
import time

from claim import Claim

OURS = """
from cinic_shards import ShardLoader
next(iter(ShardLoader({shards!r}, batch_size=512)))
"""
IMAGEFOLDER = """
import torch
{preparation}
from torchvision import datasets, transforms
tree = datasets.ImageFolder({folder!r}, transforms.PILToTensor())
loader = torch.utils.data.DataLoader(tree, 512, shuffle=True, num_workers={workers})
next(iter(loader))
"""
CPU_BUILD = """
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""Lets torchvision import beside a build of torch that lacks its operators."""


def seconds(code: str) -> float:
    """From the start of a fresh interpreter to the end of the code."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code + "\nprint('first batch', flush=True)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "first batch\n":
        if process.poll() is not None:
            raise RuntimeError(f"the process ended with {process.returncode}")
    taken = time.perf_counter() - start
    process.wait()
    return taken


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        codes = {}
        for encoding in ("png", "raw"):
            shards = claim.pack(encoding, "--encoding", encoding)
            codes[f"cinic-shards, {encoding}"] = OURS.format(shards=str(shards))
        plain = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True)
        preparation = CPU_BUILD if plain.returncode else ""
        for workers in (0, 2):
            codes[f"imagefolder, {workers} workers"] = IMAGEFOLDER.format(
                folder=str(claim.tree / "train"), workers=workers, preparation=preparation
            )
        times: dict[str, list[float]] = {name: [] for name in codes}
        for _ in range(claim.args.repeats + 1):
            for name, code in codes.items():
                times[name].append(seconds(code))
        png, raw, *others = (statistics.median(values[1:]) for values in times.values())
        theirs = min(others)
        claim.report(
            figure=f"png {png:.2f} s, raw {raw:.2f} s, ImageFolder {theirs:.2f} s",
            bar="no later than ImageFolder",
            holds=max(png, raw) <= theirs,
            seconds={name: [round(value, 3) for value in values] for name, values in times.items()},
        )


if __name__ == "__main__":
    main()
