"""How long does packing take beside webdataset's ShardWriter, and how much memory a worker?

Two whole processes, from start to end, in turn: our command with its default workers, and a script
in which ShardWriter (mtime=0) writes the same png and cls members. Before each, every file of the
tree is read once, so that both find it in the page cache.
"""

import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from claim import COMMAND, Claim

BAR = 0.25
MEMORY_BAR_MB = 400


def write_with_shardwriter(tree: Path, out: Path, without_date: bool = True) -> None:
    """Write the tree as ShardWriter does, every member dated 0 or as it comes."""
    import webdataset

    out.mkdir()
    options: dict[str, Any] = {"mtime": 0} if without_date else {}
    for split in sorted(path.name for path in tree.iterdir()):
        classes = sorted(path.name for path in (tree / split).iterdir())
        pattern = str(out / f"{split}-%05d.tar")
        with webdataset.ShardWriter(pattern, maxcount=10240, verbose=0, **options) as writer:
            for label, name in enumerate(classes):
                for path in sorted((tree / split / name).iterdir()):
                    writer.write({
                        "__key__": f"{split}/{name}/{path.stem}",
                        "png": path.read_bytes(),
                        "cls": str(label),
                    })  # fmt: skip


def main() -> None:
    """Run the claim."""
    if sys.argv[1:2] == ["--shardwriter"]:
        write_with_shardwriter(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    with Claim(__doc__ or "") as claim:
        tree, repeats = claim.tree, min(claim.args.repeats, 3)
        ours, theirs = [], []
        out, other = claim.scratch / "ours", claim.scratch / "theirs"
        for _ in range(repeats + 1):  # the first compiles the kernels
            for folder in (out, other):
                shutil.rmtree(folder, ignore_errors=True)
            _read_all(tree)
            ours.append(_seconds([COMMAND, "pack", tree, out, "--quiet"]))
            if len(ours) == 1:  # of this command and its workers: nothing else has run yet
                peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            _read_all(tree)
            theirs.append(_seconds([sys.executable, __file__, "--shardwriter", tree, other]))
        ratio = statistics.median(a / b for a, b in zip(ours[1:], theirs[1:], strict=True))
        num_images = sum(1 for _ in tree.glob("*/*/*.png"))
        claim.report(
            figure=f"{ratio:.3f} of ShardWriter's time; {peak_mb:.0f} MB in the largest process",
            bar=f"at most {BAR} of its time, {MEMORY_BAR_MB} MB",
            holds=ratio <= BAR and peak_mb <= MEMORY_BAR_MB,
            seconds=[round(value, 2) for value in ours[1:]],
            shardwriter_seconds=[round(value, 2) for value in theirs[1:]],
            bytes_per_image=round(_size(out) / num_images, 1),
            shardwriter_bytes_per_image=round(_size(other) / num_images, 1),
        )


def _read_all(tree: Path) -> None:
    for path in tree.glob("*/*/*.png"):
        path.read_bytes()


def _seconds(command: list[str | Path]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
