"""Does each bad input give one clear message, status 1 or 2, and nothing like a finished dataset?

Trees with each fault, an output folder with other files, a full disk (a small tmpfs, where this
user may mount one), and a truncated shard given to the loader.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from claim import COMMAND, Claim
from make_demo_tree import make_tree

from tests.support.odd_pngs import damaged_pngs

FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {}
"""Fault -> what the message must name, and how a tree's cat folder gets it."""


def fault(name: str, names: str) -> Callable[[Callable[[Path], object]], None]:
    """Add a fault to the table."""

    def add(make: Callable[[Path], object]) -> None:
        FAULTS[name] = (names, make)

    return add


def _any_png(cat: Path) -> bytes:
    return next(path for path in sorted(cat.glob("*_*.png"))).read_bytes()


def _remove_all(cat: Path) -> None:
    shutil.rmtree(cat.parents[1])
    cat.mkdir(parents=True)


fault("zero-byte file", "train/cat/empty.png")(lambda cat: (cat / "empty.png").touch())
fault("unreadable file", "train/cat/dangling.png")(
    lambda cat: (cat / "dangling.png").symlink_to("nowhere")
)
fault("content that is no PNG", "train/cat/text.png")(
    lambda cat: (cat / "text.png").write_text("not a picture at all")
)
fault("the same key twice", "train/cat/twice")(
    lambda cat: [(cat / name).write_bytes(_any_png(cat)) for name in ("twice.png", "twice.PNG")]
)
fault("a dot in a stem", "train/cat/a.b.png")(
    lambda cat: (cat / "a.b.png").write_bytes(_any_png(cat))
)
fault("a JPEG", "train/cat/photo.jpg")(lambda cat: (cat / "photo.jpg").write_bytes(b"\xff\xd8"))
fault("no images", "no .png file")(_remove_all)
fault("truncated pixel data", "train/cat/cut.png")(
    lambda cat: (cat / "cut.png").write_bytes(damaged_pngs()["cut after 60 bytes"])
)
fault("corrupt pixel data", "train/cat/corrupt.png")(
    lambda cat: (cat / "corrupt.png").write_bytes(damaged_pngs()["changed byte in middle"])
)


def run(*command: object) -> tuple[int, str]:
    """Exit status and message of a command."""
    result = subprocess.run(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    return result.returncode, result.stderr


def is_clear(status: int, message: str, names: str) -> bool:
    """One message that names the thing, no traceback, the right status."""
    return (
        status in (1, 2)
        and message.count("error: ") == 1
        and names in message
        and "Traceback" not in message
    )


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A tmpfs of 256 KiB, where it can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        good = claim.scratch / "good"
        make_tree(good, per_class=9, seed=0)
        results: dict[str, bool] = {}
        messages: dict[str, str] = {}

        def check(name: str, status: int, message: str, names: str, clean: bool) -> None:
            results[name] = is_clear(status, message, names) and clean
            messages[name] = f"[{status}] {message.strip()[:300]}"

        for name, (names, make) in FAULTS.items():
            tree, out = claim.scratch / "tree", claim.scratch / "out"
            shutil.copytree(good, tree)
            make(tree / "train" / "cat")
            status, message = run(COMMAND, "pack", tree, out)
            check(name, status, message, names, not out.exists())
            shutil.rmtree(tree)

        out = claim.scratch / "occupied"
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
        status, message = run(COMMAND, "pack", good, out)
        untouched = [path.name for path in out.iterdir()] == ["thesis.tex"]
        check("output with other files", status, message, "thesis.tex", untouched)

        with small_disk(claim.scratch / "disk") as mounted:
            if mounted:
                out = claim.scratch / "disk" / "shards"
                status, message = run(COMMAND, "pack", good, out)
                check("full disk", status, message, str(out), not out.exists())
        if "full disk" not in results:
            messages["full disk"] = "NOT RUN: this user may not mount a tmpfs"

        shards = claim.pack("shards", tree=good)
        shard = sorted(shards.glob("train-*.tar"))[0]
        shard.write_bytes(shard.read_bytes()[:-2000])
        code = f"from cinic_shards import ShardLoader; ShardLoader({str(shards)!r}, batch_size=8)"
        status, message = run(sys.executable, "-c", code)
        # In a program of the user's it is an exception: its last line is the message.
        last = message.strip().splitlines()[-1]
        results["truncated shard"] = status == 1 and shard.name in last and "truncated" in last
        messages["truncated shard"] = f"[{status}] {last}"

        claim.report(
            figure=f"{sum(results.values())} of {len(results)} faults",
            bar="all, full disk among them",
            holds=all(results.values()) and "full disk" in results,
            failed=[name for name, passed in results.items() if not passed],
            messages=messages,
        )


if __name__ == "__main__":
    main()
