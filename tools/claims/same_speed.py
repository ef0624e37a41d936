"""Is the loader as fast as before it had state, subsets, masks and statistics?

Paired: fresh processes of the commit before and of this one take turns on the same shards, and each
pair gives a ratio of its median epochs. The interval is of the median ratio, by order statistics,
at 95 %; it must include 1 or lie above it. Needs the repository's history.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

from claim import REPOSITORY, Claim

BEFORE = "cbfe09c"
PAIRS = 15
"""Of which the median's interval is the 4th to the 12th: 96.5 %."""
RUN = """
import statistics, sys, time
import cinic_shards
from cinic_shards import Augment, ShardLoader

assert cinic_shards.__file__.startswith(sys.argv[2]), cinic_shards.__file__

for encoding, epochs, options in (
    ("png", 3, {}), ("zstd", 5, {}), ("raw", 15, {}), ("raw", 9, {"augment": Augment()})
):
    loader = ShardLoader(f"{sys.argv[1]}/{encoding}", batch_size=512, **options)
    rates = []
    for epoch in range(epochs + 1):
        start = time.perf_counter()
        count = sum(len(labels) for _, labels in loader)
        rates.append(count / (time.perf_counter() - start))
    print(statistics.median(rates[1:]))
"""
KINDS = ("png", "zstd", "raw", "raw, crop + flip + normalise")


def rates(code: Path, shards: Path) -> list[float]:
    """Images a second of each kind, by the package in a checkout."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(shards), str(code)],
        cwd=shards,  # Python looks for the package in the current folder first
        env=os.environ | {"PYTHONPATH": str(code)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        for encoding in ("png", "zstd", "raw"):
            claim.pack(encoding, "--encoding", encoding)
        before = claim.scratch / "before"
        git = ["git", "-C", str(REPOSITORY), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(before), BEFORE], check=True)
        try:
            for code in (before, REPOSITORY):  # compile
                rates(code, claim.scratch)
            ratios: list[list[float]] = []
            for pair in range(PAIRS):
                order = (before, REPOSITORY) if pair % 2 else (REPOSITORY, before)
                found = {code: rates(code, claim.scratch) for code in order}
                ratios.append([
                    now / then for now, then in zip(found[REPOSITORY], found[before], strict=True)
                ])  # fmt: skip
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)
        columns = [sorted(column) for column in zip(*ratios, strict=True)]
        claim.report(
            figure={
                kind: f"{statistics.median(column):.3f} ({column[3]:.3f} to {column[11]:.3f})"
                for kind, column in zip(KINDS, columns, strict=True)
            },
            bar="the interval of now / before includes 1 or is above it",
            holds=all(column[11] >= 1 for column in columns),
            pairs=PAIRS,
            before=BEFORE,
        )


if __name__ == "__main__":
    main()
