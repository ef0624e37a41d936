"""Are ``stats``' means and deviations numpy's in float64, and those known of CIFAR-10's train set?

The whole, each split, train and valid together, each origin, and one class of one split, by the
command line, beside numpy over the tree's files as Pillow decodes them. The published mean of
CIFAR-10's train set can only be found where all of its 50,000 images are in the tree.
"""

import json
import math
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from claim import COMMAND, Claim
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.format.provenance import CIFAR10_SIZES, parse_stem

BAR = 1e-12
CIFAR10_TRAIN_MEAN = (0.49139968, 0.48215841, 0.44653091)
"""To eight digits, as code for CIFAR-10 commonly has it; of all 50,000 images."""
_AT_ONCE = 5000
"""Images: in float64 they are 8 times as large."""


class Part:
    """What numpy says of the images of some files."""

    def __init__(self, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        def pixels() -> Iterator[NDArray[np.float64]]:
            for start in range(0, len(rows), _AT_ONCE):
                some = images[rows[start : start + _AT_ONCE]]
                # A channel lies together, so that numpy adds up by pairs, and rounds less.
                yield np.ascontiguousarray(some.reshape(-1, 3).T, np.float64) / 255

        count = rows.size * images[0, :, :, 0].size
        self.mean = self._sums(pixels(), count)
        squares = self._sums(((some - self.mean[:, None]) ** 2 for some in pixels()), count)
        self.std = np.sqrt(squares)

    @staticmethod
    def _sums(arrays: Iterator[NDArray[np.float64]], count: int) -> NDArray[np.float64]:
        totals = [some.sum(axis=1) for some in arrays]
        return np.array([math.fsum(channel) / count for channel in zip(*totals, strict=True)])

    def error(self, stated: dict[str, Any]) -> float:
        """The largest difference."""
        both = np.concatenate([self.mean - stated["mean"], self.std - stated["std"]])
        return float(np.abs(both).max())


def stats(shards: Path, *options: str) -> tuple[dict[str, Any], float]:
    """What the command prints, and its seconds."""
    start = time.perf_counter()
    command = [COMMAND, "stats", shards, "--json", *options]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found, time.perf_counter() - start


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        shards = claim.pack("shards")
        files = sorted(claim.tree.glob("*/*/*.png"))
        images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        split = np.array([file.parts[-3] for file in files])
        class_name = np.array([file.parts[-2] for file in files])
        origin = np.array([parse_stem(file.stem).origin for file in files])
        one_class, one_split = class_name[0], split[0]
        parts = {"": np.full(len(files), True)}
        parts |= {f"--split {name}": split == name for name in np.unique(split)}
        parts["--split train+valid"] = (split == "train") | (split == "valid")
        parts |= {f"--origin {name}": origin == name for name in np.unique(origin)}
        parts[f"--split {one_split} --class {one_class}"] = (split == one_split) & (
            class_name == one_class
        )
        worst, same_counts, seconds, cifar10 = 0.0, True, {}, None
        for options, mask in parts.items():
            found, seconds[options or "all"] = stats(shards, *options.split())
            worst = max(worst, Part(images, np.flatnonzero(mask)).error(found))
            same_counts &= found["num_samples"] == int(mask.sum())
            if options == "--origin cifar10-train":
                cifar10 = found
        published = "not all in this tree"
        if cifar10 is not None and cifar10["num_samples"] == CIFAR10_SIZES["train"]:
            is_same = np.allclose(cifar10["mean"], CIFAR10_TRAIN_MEAN, rtol=0, atol=5e-9)
            published = "as published to 8 digits" if is_same else "not as published"
        claim.report(
            figure=f"{worst:.1e} at most in {len(parts)} parts; CIFAR-10's train mean: {published}",
            bar=f"{BAR:g}, and CIFAR-10's train mean {CIFAR10_TRAIN_MEAN} where it is all there",
            holds=worst <= BAR and same_counts and published != "not as published",
            cifar10_train_mean=cifar10 and cifar10["mean"],
            seconds={options: round(time_, 2) for options, time_ in seconds.items()},
        )


if __name__ == "__main__":
    main()
