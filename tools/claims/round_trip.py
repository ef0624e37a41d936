"""Does tar give every file back, and do the bytes depend on workers or listing order?

Packs the tree with one worker, with two, and from a copy of its listing in shuffled order
(symbolic links made in random order, in /dev/shm where there is one: tmpfs lists by creation);
unpacks all shards with ``tar xf`` and compares every PNG with its file.
"""

import os
import random
import subprocess
import tempfile
from pathlib import Path

from claim import Claim, digests


def shuffled_listing(tree: Path, out: Path) -> int:
    """Links to every file, made in random order; how many folders list in another order."""
    files = [path.relative_to(tree) for path in tree.glob("*/*/*.png")]
    random.Random(0).shuffle(files)
    for file in files:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).symlink_to(tree / file)
    folders = {file.parent for file in files}
    return sum(os.listdir(tree / folder) != os.listdir(out / folder) for folder in folders)


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        one = claim.pack("one", "--workers", "1")
        two = claim.pack("two", "--workers", "2")
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as links:
            num_reordered = shuffled_listing(claim.tree, Path(links))
            shuffled = claim.pack("shuffled", tree=Path(links))
        same = digests(one) == digests(two) == digests(shuffled)

        extracted = claim.scratch / "extracted"
        extracted.mkdir()
        for shard in sorted(one.glob("*.tar")):
            subprocess.run(["tar", "xf", shard, "-C", extracted], check=True)
        files = {path.relative_to(claim.tree) for path in claim.tree.glob("*/*/*.png")}
        back = {path.relative_to(extracted) for path in extracted.glob("*/*/*.png")}
        identical = sum(
            (claim.tree / file).read_bytes() == (extracted / file).read_bytes()
            for file in files & back
        )
        claim.report(
            figure=f"{identical:,} of {len(files):,} PNGs identical, "
            f"{len(back - files)} extra; same SHA-256 for every file: {same}",
            bar="every PNG identical, none extra, same SHA-256",
            holds=identical == len(files) and not back - files and same,
            files_compared=len(digests(one)),
            folders_listed_in_another_order=num_reordered,
        )


if __name__ == "__main__":
    main()
