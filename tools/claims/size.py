"""How many bytes does an image take in each encoding, beside the PNGs and webdataset's shards?

ShardWriter writes the same png and cls members, with ``mtime=0`` and as it comes. Packing times are
those of one run each, warm.
"""

import subprocess
import sys
import time
from pathlib import Path

from claim import Claim
from pack_speed import write_with_shardwriter

from cinic_shards.codec import ENCODINGS


def bytes_in(folder: Path) -> int:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Run the claim."""
    if sys.argv[1:2] == ["--shardwriter"]:
        write_with_shardwriter(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "0")
        return
    with Claim(__doc__ or "") as claim:
        num_images = sum(1 for _ in claim.tree.glob("*/*/*.png"))
        sizes, seconds = {"PNG files": bytes_in(claim.tree)}, {}
        for kind in ENCODINGS:
            start = time.perf_counter()
            sizes[kind] = bytes_in(claim.pack(kind, "--encoding", kind))
            seconds[kind] = time.perf_counter() - start
        for name, mtime in (("webdataset, mtime=0", "0"), ("webdataset", "")):
            out = claim.scratch / f"webdataset{mtime}"
            start = time.perf_counter()
            command = [sys.executable, __file__, "--shardwriter", claim.tree, out, mtime]
            subprocess.run([str(part) for part in command], check=True)
            sizes[name], seconds[name] = bytes_in(out), time.perf_counter() - start
        of_pngs = sizes["zstd"] / sizes["PNG files"]
        of_webdataset = sizes["zstd"] / sizes["webdataset, mtime=0"]
        claim.report(
            figure=f"zstd: {of_pngs:.3f} of the PNGs, {of_webdataset:.3f} of webdataset's shards",
            bar="at most 0.85 and 0.5",
            holds=of_pngs <= 0.85 and of_webdataset <= 0.5,
            bytes_per_image={name: round(size / num_images, 1) for name, size in sizes.items()},
            seconds={name: round(value, 1) for name, value in seconds.items()},
        )


if __name__ == "__main__":
    main()
