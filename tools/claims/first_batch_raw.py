"""How long after ``import torch`` is the first batch of a local ``raw`` dataset there?

Fresh processes, page cache and compiled kernels warm; import of the package, opening and the first
shuffled batch of 512; median.
"""

import statistics
import subprocess
import sys

from claim import Claim

BAR_SECONDS = 0.5
CODE = """
import torch, time
start = time.perf_counter()
from cinic_shards import ShardLoader
imported = time.perf_counter()
loader = ShardLoader({shards!r}, batch_size=512)
opened = time.perf_counter()
next(iter(loader))
end = time.perf_counter()
print(imported - start, opened - imported, end - opened)
"""


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        code = CODE.format(shards=str(claim.pack("raw", "--encoding", "raw")))
        runs = []
        for _ in range(claim.args.repeats + 1):
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
            runs.append([float(part) for part in done.stdout.split()])
        parts = [statistics.median(column) for column in zip(*runs[1:], strict=True)]
        total = statistics.median(sum(run) for run in runs[1:])
        claim.report(
            figure=f"{total:.2f} s",
            bar=f"at most {BAR_SECONDS:g} s",
            holds=total <= BAR_SECONDS,
            seconds=dict(
                zip(
                    ("import of the package", "opening", "first batch"),
                    [round(part, 3) for part in parts],
                    strict=True,
                )
            ),
        )


if __name__ == "__main__":
    main()
