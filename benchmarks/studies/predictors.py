r"""How many bytes does an image take in a ``zstd`` block, by predictor, level and block size?

8,192 images of a split, encoded in the format's way (green subtracted, a + b - c, three planes per
block of 1,024, level 1), without parts of it, and in other ways. Prints a JSON line for each: bytes
per image, and images per second that one thread of zstd decompresses, without the inverse
predictor. Sizes depend only on the images and the version of libzstd.

    cinic-shard pack ./cinic ./shards
    python -m benchmarks.studies.predictors ./shards

Result on a tree of CINIC-10's size: 1,818 bytes. Higher levels are no smaller, small blocks cost
nothing, and only MED (1,782) is smaller, but a running sum cannot invert it. docs/performance.md
has the table.
"""

import json
import time

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks import argument_parser
from cinic_shards.read.dataset import Dataset

NUM_IMAGES = 8192


def left_over(images: NDArray[np.uint8], predictor: str, green: bool) -> NDArray[np.uint8]:
    """Return the differences between pixels and a predictor's guesses, uint8 (N, H, W, 3).

    Args:
        images: uint8, shape (N, H, W, 3).
        predictor: name of the predictor.
        green: subtract green from red and blue first.
    """
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


def measure(
    images: NDArray[np.uint8],
    *,
    predictor: str = "a + b - c",
    green: bool = True,
    block: int = 1024,
    level: int = 1,
    planar: bool = True,
) -> dict[str, float]:
    """Return bytes per image, and images per second that zstd decompresses.

    Args:
        images: uint8, shape (N, H, W, 3).
        predictor: see ``left_over``; the defaults are the format's choices.
        green: see ``left_over``.
        block: images per block.
        level: zstd's level.
        planar: store a block as three planes; else each image as three planes.
    """
    left = left_over(images, predictor, green)
    axes = (3, 0, 1, 2) if planar else (0, 3, 1, 2)
    parts = [left[at : at + block].transpose(axes).tobytes() for at in range(0, len(left), block)]
    frames = [zstandard.ZstdCompressor(level=level).compress(part) for part in parts]
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        for frame in frames:
            zstandard.ZstdDecompressor().decompress(frame)
        rates.append(len(images) / (time.perf_counter() - start))
    return {
        "bytes": round(sum(map(len, frames)) / len(images)),
        "decompressed_per_second": round(max(rates), -3),
    }


def main() -> None:
    """Measure all ways to encode."""
    parser = argument_parser(__doc__)
    parser.add_argument("shards", help="a dataset, in any encoding")
    parser.add_argument("--split", default="train")
    args = parser.parse_args()
    reader = Dataset(args.shards).split(args.split)
    images = np.empty((len(reader), *reader.image_shape), np.uint8)
    for block, start in enumerate(reader.block_starts[:-1]):
        if start < NUM_IMAGES:
            reader.read_block(block, images[start : reader.block_starts[block + 1]])
    images = images[:NUM_IMAGES]
    ways = {"the format's": measure(images)}
    ways |= {f"level {level}": measure(images, level=level) for level in (-1, 2, 3, 6, 9, 19)}
    ways |= {f"blocks of {size}": measure(images, block=size) for size in (128, 256, 4096)}
    ways["green not subtracted"] = measure(images, green=False)
    ways["planes image by image"] = measure(images, planar=False)
    for predictor in ("none", "left", "above", "mean of left and above", "MED"):
        ways[predictor] = measure(images, predictor=predictor)
    for name, found in ways.items():
        print(json.dumps({"way": name, **found}), flush=True)


if __name__ == "__main__":
    main()
