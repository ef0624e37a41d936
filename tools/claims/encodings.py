"""Are pixels, order and fingerprint the same in every encoding, and the bytes for any workers?

Packs the tree as png, zstd and raw, with one worker and with two. Every image of each is compared
with Pillow's, as ``list(loader)`` gives it: all batches of a split are held at once.
"""

import warnings
from pathlib import Path

import numpy as np
from claim import Claim, digests
from PIL import Image

from cinic_shards import ShardLoader
from cinic_shards.codec import ENCODINGS
from cinic_shards.read.dataset import Dataset


def compare(tree: Path, folders: dict[str, Path]) -> tuple[int, int, bool]:
    """Images that are Pillow's in every encoding, all images, and whether the orders are one."""
    equal = total = 0
    same_order = True
    for split in Dataset(folders["png"]).manifest.splits:
        loaders = [
            ShardLoader(folder, split=split.name, tail="short") for folder in folders.values()
        ]
        reader = loaders[0].dataset.split(split.name)
        for batches in zip(*map(list, loaders), strict=True):
            ids = [batch.indices.tolist() for batch in batches]
            same_order &= all(other == ids[0] for other in ids)
            images = [batch.images.permute(0, 2, 3, 1).numpy() for batch in batches]
            for row, sample_id in enumerate(ids[0]):
                key = reader.key(sample_id - split.first_id)
                with Image.open(tree / f"{key}.png") as original:
                    expected = np.asarray(original.convert("RGB"))
                equal += all(np.array_equal(one[row], expected) for one in images)
                total += 1
    return equal, total, same_order


def main() -> None:
    """Run the claim."""
    warnings.filterwarnings("ignore", "Palette images with Transparency")
    with Claim(__doc__ or "") as claim:
        folders = {kind: claim.pack(kind, "--encoding", kind) for kind in ENCODINGS}
        same_bytes = {}
        for kind, folder in folders.items():
            one = claim.pack(f"{kind}-one", "--encoding", kind, "--workers", "1")
            same_bytes[kind] = digests(one) == digests(folder)
        fingerprints = {Dataset(folder).manifest.fingerprint for folder in folders.values()}
        equal, total, same_order = compare(claim.tree, folders)
        all_true = len(fingerprints) == 1 and same_order and all(same_bytes.values())
        claim.report(
            figure=f"{equal:,} of {total:,} images are Pillow's in every encoding; "
            f"one fingerprint, one order, one SHA-256 for any workers: {all_true}",
            bar="all images, and true",
            holds=equal == total > 0 and all_true,
            same_bytes=same_bytes,
        )


if __name__ == "__main__":
    main()
