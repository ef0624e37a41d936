"""What every claim script shares: its arguments, a tree and shards to work on, and its report.

A claim script answers one question with one JSON line, and exits with 1 where its bar is missed.

    CINIC_TREE=./cinic make claims          # all of them, on your CINIC-10
    python tools/claims/pixels.py --tree ./cinic --scratch /fast/disk

Without a tree, a small one is drawn; the line then says so.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / part) for part in ("tools", "benchmarks", ".")]

COMMAND = Path(sys.executable).with_name("cinic-shard")
LIBRARIES = ("cinic-shards", "numpy", "numba", "pillow", "torch", "torchvision", "webdataset")


class Claim:
    """One claim: use as a context manager; ``scratch`` goes when it ends."""

    def __init__(self, question: str) -> None:
        parser = argparse.ArgumentParser(
            description=question, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument(
            "--tree",
            type=Path,
            default=os.environ.get("CINIC_TREE"),
            help="folder of <split>/<class>/*.png; default: $CINIC_TREE, else a small drawn one",
        )
        parser.add_argument(
            "--per-class", type=int, default=100, help="size of a drawn tree: images a class, split"
        )
        parser.add_argument(
            "--scratch", type=Path, help="where to write; default: a temporary folder"
        )
        parser.add_argument("--repeats", type=int, default=5, help="of each timing")
        parser.add_argument(
            "--untimed",
            action="store_true",
            help="hold no time against a claim that is about more: for slow and busy machines",
        )
        self.args = parser.parse_args()
        self.question = question.strip().splitlines()[0]
        self.scratch = Path(tempfile.mkdtemp(prefix="claim-", dir=self.args.scratch))
        self._tree: Path | None = self.args.tree and Path(self.args.tree).resolve()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def tree(self) -> Path:
        """The tree to work on; drawn at first use where none was given."""
        if self._tree is None:
            from make_demo_tree import make_tree

            self._tree = self.scratch / "tree"
            make_tree(self._tree, per_class=self.args.per_class, seed=0)
        return self._tree

    def pack(self, name: str, *options: str, tree: Path | None = None) -> Path:
        """Shards of the tree, by the command line."""
        out = self.scratch / name
        command = [COMMAND, "pack", tree or self.tree, out, "--quiet", *options]
        subprocess.run([str(part) for part in command], check=True)
        return out

    def report(self, *, figure: Any, bar: str, holds: bool, **details: Any) -> None:
        """Print the claim's line; exit with 1 where it does not hold."""
        say = {
            "claim": Path(sys.argv[0]).stem,
            "question": self.question,
            "figure": figure,
            "bar": bar,
            "holds": holds,
            **details,
            "tree": self._describe_tree(),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in LIBRARIES},
            "machine": machine(),
        }
        print(json.dumps(say), flush=True)
        if not holds:
            self.__exit__()
            sys.exit(1)

    def _describe_tree(self) -> str:
        if self._tree is None:
            return "none needed"
        count = sum(1 for _ in self._tree.glob("*/*/*.png"))
        kind = "given" if self.args.tree else "drawn"
        return f"{kind}, {count:,} images"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def machine() -> dict[str, Any]:
    """Processor, cores and memory."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(": ")[1] for line in lines if line.startswith("model name")), model
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model,
        "cores": cores,
        "memory_gib": round(memory, 1),
    }
