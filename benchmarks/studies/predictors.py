r"""How many bytes is an image in a ``zstd`` block, by predictor, zstd level and block size?

8,192 images of a split: the format's way (green subtracted, a + b - c, three planes a block of
1,024, level 1), its parts left out, and other ways. Prints a JSON line each: bytes an image, and
images a second that one thread of zstd decompresses, without the inverse predictor. Sizes depend
on the version of libzstd only.

    cinic-shard pack ./cinic ./shards
    python -m benchmarks.studies.predictors ./shards

Result, of CINIC-10's size: 1,818 bytes; higher levels are no smaller, small blocks cost nothing,
only MED (1,782) is smaller, and a running sum does not undo it. docs/performance.md has the table.
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
    """Differences from a predictor's guesses, uint8 (N, H, W, 3)."""
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
    """Bytes an image, and images a second that zstd decompresses; the defaults are the format's."""
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
    """Measure all ways."""
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
