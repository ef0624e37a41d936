"""What else could a ``zstd`` block have been? Bytes an image, and zstd's own speed, for each idea.

8,192 images of the split train. Predictors: that of the format (green subtracted, a + b - c), its
parts left out, and others; planes for the whole block or image by image; zstd's levels; other block
sizes. Speed is of one thread that inflates, without the predictor, in images a second; sizes hold
wherever the same libzstd runs.
"""

import time

import numpy as np
import zstandard
from claim import Claim
from numpy.typing import NDArray

from cinic_shards.read.dataset import Dataset

NUM_IMAGES = 8192


def left_over(images: NDArray[np.uint8], predictor: str, green: bool) -> NDArray[np.uint8]:
    """What a predictor leaves, uint8 (N, H, W, 3)."""
    pixels = images.copy()
    if green:
        pixels[..., 0] -= images[..., 1]
        pixels[..., 2] -= images[..., 1]
    padded = np.pad(pixels, ((0, 0), (1, 0), (1, 0), (0, 0)))
    a, b, c = padded[:, 1:, :-1], padded[:, :-1, 1:], padded[:, :-1, :-1]
    if predictor == "MED":  # of JPEG-LS
        low, high = np.minimum(a, b), np.maximum(a, b)
        guess = np.where(c >= high, low, np.where(c <= low, high, a + b - c))
    else:
        guess = {
            "none": np.zeros_like(a),
            "left": a,
            "above": b,
            "mean of left and above": ((a.astype(np.uint16) + b) // 2).astype(np.uint8),
            "a + b - c": a + b - c,
        }[predictor]
    return pixels - guess


def measure(parts: list[NDArray[np.uint8]], level: int) -> dict[str, float]:
    """Bytes an image and images a second of zstd on these blocks' leftovers."""
    frames = [zstandard.ZstdCompressor(level=level).compress(part.tobytes()) for part in parts]
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        for frame in frames:
            zstandard.ZstdDecompressor().decompress(frame)
        rates.append(NUM_IMAGES / (time.perf_counter() - start))
    return {
        "bytes": round(sum(map(len, frames)) / NUM_IMAGES),
        "inflated_per_second": round(max(rates), -3),
    }


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        reader = Dataset(claim.pack("png")).split("train")
        rows = np.arange(NUM_IMAGES) % len(reader)
        images = np.empty((NUM_IMAGES, *reader.image_shape), np.uint8)
        reader.read_images(rows, images)

        def one(
            predictor: str = "a + b - c",
            *,
            green: bool = True,
            block: int = 1024,
            level: int = 1,
            planar: bool = True,
        ) -> dict[str, float]:
            left = left_over(images, predictor, green)
            axes = (3, 0, 1, 2) if planar else (0, 3, 1, 2)
            parts = [
                np.ascontiguousarray(left[at : at + block].transpose(axes))
                for at in range(0, NUM_IMAGES, block)
            ]
            return measure(parts, level)

        found = {"the format's": one()}
        found |= {f"level {level}": one(level=level) for level in (-1, 2, 3, 6, 9, 19)}
        found |= {f"blocks of {size}": one(block=size) for size in (128, 256, 4096)}
        found["green not subtracted"] = one(green=False)
        found["planes image by image"] = one(planar=False)
        for predictor in ("none", "left", "above", "mean of left and above", "MED"):
            found[predictor] = one(predictor)
        running_sums = [found[name]["bytes"] for name in ("none", "left", "above", "the format's")]
        claim.report(
            figure={name: result["bytes"] for name, result in found.items()},
            bar="the format's is the smallest of those that running sums undo",
            holds=min(running_sums) == found["the format's"]["bytes"],
            inflated_per_second={
                name: result["inflated_per_second"] for name, result in found.items()
            },
        )


if __name__ == "__main__":
    main()
