r"""How many commands and seconds does a newcomer need from a clone to the first batch?

The commands of the README and docs/quickstart.md, in a new folder and a new environment: clone,
install, draw a tree, pack, verify, first batch. Packages that pip has in its cache are not
downloaded again, and kernels are compiled. Prints a JSON line for each command, and the sum.

    python -m benchmarks.studies.newcomer

Result: docs/performance.md.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import argument_parser

ROOT = Path(__file__).resolve().parents[2]
FIRST_BATCH = (
    "from cinic_shards import Augment, ShardLoader; "
    "images, labels = next(iter(ShardLoader('shards', batch_size=64, augment=Augment()))); "
    "print(images.shape)"
)
COMMANDS = {
    "clone": ["git", "clone", "--quiet", str(ROOT), "cinic-shards"],
    "make an environment": [sys.executable, "-m", "venv", "venv"],
    "install": [
        "venv/bin/pip", "install", "--quiet", "-c", "cinic-shards/constraints.txt",
        "./cinic-shards",
    ],
    "draw a tree": ["venv/bin/python", "cinic-shards/tools/make_demo_tree.py", "cinic"],
    "pack": ["venv/bin/cinic-shard", "pack", "./cinic", "./shards", "--quiet"],
    "verify": ["venv/bin/cinic-shard", "verify", "./shards", "--against", "./cinic", "--quiet"],
    "first batch": ["venv/bin/python", "-c", FIRST_BATCH],
}  # fmt: skip
"""Name -> the words of the command."""


def main() -> None:
    """Run the commands."""
    argument_parser(__doc__).parse_args()
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"NUMBA_CACHE_DIR": str(Path(folder, "kernels"))}
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(words, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
            total += (seconds := time.perf_counter() - start)
            print(
                json.dumps(
                    {"step": name, "seconds": round(seconds, 1), "command": shlex.join(words)}
                )
            )
    print(json.dumps({"commands": len(COMMANDS), "seconds": round(total, 1)}))


if __name__ == "__main__":
    main()
