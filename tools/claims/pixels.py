"""Are the loader's pixels Pillow's, for every image of the tree and for every odd kind of PNG?

The odd kinds are those of ``tools/odd_pngs.py``, packed as a tree of their own.
"""

import warnings
from pathlib import Path

import numpy as np
from claim import Claim
from PIL import Image

from cinic_shards import ShardLoader
from cinic_shards.read.dataset import Dataset
from tests.support.odd_pngs import odd_pngs


def compare(tree: Path, shards: Path) -> tuple[int, int]:
    """Images whose pixels are Pillow's, and all images."""
    equal = total = 0
    for split in Dataset(shards).manifest.splits:
        loader = ShardLoader(shards, split=split.name, shuffle=False)
        reader = loader.dataset.split(split.name)
        for batch in loader:
            images = batch.images.permute(0, 2, 3, 1).numpy()
            for image, i in zip(images, batch.indices.tolist(), strict=True):
                key = reader.key(i - split.first_id)
                with Image.open(tree / f"{key}.png") as original:
                    equal += np.array_equal(image, np.asarray(original.convert("RGB")))
                total += 1
    return equal, total


def main() -> None:
    """Run the claim."""
    warnings.filterwarnings("ignore", "Palette images with Transparency")
    with Claim(__doc__ or "") as claim:
        equal, total = compare(claim.tree, claim.pack("shards"))
        odd = odd_pngs()
        folder = claim.scratch / "odd" / "train" / "odd"
        folder.mkdir(parents=True)
        for number, data in enumerate(odd.values()):
            (folder / f"n{10_000_000 + number}_1.png").write_bytes(data)
        odd_shards = claim.pack("odd-shards", tree=claim.scratch / "odd")
        odd_equal, odd_total = compare(claim.scratch / "odd", odd_shards)
        claim.report(
            figure=f"{equal:,} of {total:,} images, {odd_equal} of {odd_total} odd PNGs",
            bar="all of them",
            holds=equal == total > 0 and odd_equal == odd_total == len(odd),
            odd_kinds=list(odd),
        )


if __name__ == "__main__":
    main()
