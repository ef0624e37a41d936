"""How many CPU seconds does a million augmented float32 images take, beside every peer's?

Runs ``benchmarks/suite.py``: warm epochs of the train split, random crop with a padding of 4, flip,
normalised; user and system time of each contender's whole process tree, all in one run, medians.
Our best encoding beside the best of those that are installed (``make bench-env`` installs more);
of libraries that store PNGs or pixels, with pixels: they spare themselves the decoding.
"""

import json
import subprocess
import sys
from typing import Any

from claim import REPOSITORY, Claim

BAR = 8.0
CONTENDERS = "ImageFolder", "FFCV*", "tensor*", "cinic-shards, raw", "*raw", "cinic-shards*"
"""Patterns; on a drawn tree, the few that tell most."""


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        is_real = claim.args.tree is not None
        lines = claim.scratch / "lines.jsonl"
        command: list[Any] = [
            *(sys.executable, REPOSITORY / "benchmarks" / "suite.py", "--tree", claim.tree),
            *("--out", lines, "--scratch", claim.scratch, "--questions", "float32"),
            *("--repeats", str(min(claim.args.repeats, 3))),
            *("--seconds", "1.5" if is_real else "0.5"),
            *("--contenders", *(CONTENDERS if is_real else CONTENDERS[1:4])),
        ]
        subprocess.run(command, check=True)
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
        seconds = {
            row["contender"]: row["cpu_seconds_per_million"]
            for row in rows
            if row["question"] == "float32" and "error" not in row
        }
        skipped = [row["contender"] for row in rows if row["question"] == "skipped"]
        ours = {name: value for name, value in seconds.items() if name.startswith("cinic-shards")}
        theirs = {name: value for name, value in seconds.items() if name not in ours}
        our_best, best = (min(part, key=lambda name: part[name]) for part in (ours, theirs))
        ratio = theirs[best] / ours[our_best]
        claim.report(
            figure=f"{our_best}: 1/{ratio:.1f} of the best peer's, {best}",
            bar=f"at most 1/{BAR:g}; of a drawn tree, that it runs",
            holds=not is_real or ratio >= BAR,
            cpu_seconds_per_million=seconds,
            not_installed=skipped,
        )


if __name__ == "__main__":
    main()
