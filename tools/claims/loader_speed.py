"""How many times ImageFolder's and webdataset's images a second does the loader deliver?

Runs ``benchmarks/bench_loader.py``: shuffled epochs of the train split, batch 512, warm as uint8
and float32, and cold as uint8; every contender at its best setting; medians of one run.
"""

import json
import subprocess
import sys
from pathlib import Path

from claim import REPOSITORY, Claim

BARS = {
    "warm uint8 / imagefolder": 7.0,
    "warm uint8 / webdataset": 12.0,
    "cold uint8 / imagefolder": 10.0,
}


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        shards = claim.pack("shards")
        lines = claim.scratch / "lines.jsonl"
        command: list[str | Path] = [
            *(sys.executable, REPOSITORY / "benchmarks" / "bench_loader.py"),
            *("--tree", claim.tree, "--shards", shards, "--out", lines),
            *("--epochs", str(claim.args.repeats)),
        ]
        subprocess.run(command, check=True)
        best: dict[tuple[str, str], dict[str, float]] = {}
        for line in lines.read_text().splitlines():
            row = json.loads(line)
            panel = best.setdefault((row["cache"], row["dtype"]), {})
            rate = row["images_per_second"]
            panel[row["contender"]] = max(rate, panel.get(row["contender"], 0.0))
        ratios = {
            f"{cache} {dtype} / {name}": round(rates["cinic-shards"] / rate, 2)
            for (cache, dtype), rates in best.items()
            for name, rate in rates.items()
            if name != "cinic-shards"
        }
        claim.report(
            figure=ratios,
            bar=", ".join(f"{name} at least {bar:g}" for name, bar in BARS.items()),
            holds=all(ratios.get(name, 0.0) >= bar for name, bar in BARS.items()),
            images_per_second={" ".join(kind): rates for kind, rates in best.items()},
        )


if __name__ == "__main__":
    main()
