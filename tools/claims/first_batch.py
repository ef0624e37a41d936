"""Is the first batch of a fresh process there no later than ImageFolder's?

Seconds from the start of the interpreter to the first shuffled uint8 batch of 512 from the train
split, imports included, page cache and compiled kernels warm. ImageFolder with 0 and 2 workers,
the better counts. The contenders in turn, medians.
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
from cinic_shards.loader.bench import imagefolder
next(iter(imagefolder({tree!r}, "train", batch_size=512, workers={workers}).open()))
"""


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
        codes = {"cinic-shards": OURS.format(shards=str(claim.pack("shards")))}
        for workers in (0, 2):
            codes[f"imagefolder, {workers} workers"] = IMAGEFOLDER.format(
                tree=str(claim.tree), workers=workers
            )
        times: dict[str, list[float]] = {name: [] for name in codes}
        for _ in range(claim.args.repeats + 1):
            for name, code in codes.items():
                times[name].append(seconds(code))
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        ours = medians.pop("cinic-shards")
        theirs = min(medians.values())
        claim.report(
            figure=f"{ours:.2f} s, ImageFolder {theirs:.2f} s",
            bar="no later than ImageFolder",
            holds=ours <= theirs,
            seconds={name: [round(value, 3) for value in values] for name, values in times.items()},
        )


if __name__ == "__main__":
    main()
