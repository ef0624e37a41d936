r"""How fast does each encoding become pixels, beside other decoders of the same images?

Ours: a batch of PNGs at a time, a block of ``zstd``, a copy of ``raw``. Others, where they are
installed: Pillow, OpenCV and imagecodecs, an image at a time, as a loader calls them. One
thread, then as many as there are usable cores; the contenders in turn; medians. Memory is warm.

    python benchmarks/bench_decode.py --shards ./shards --out decode.jsonl

``--shards`` is of the encoding png; the blocks are made from it.
"""

import argparse
import importlib
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from cinic_shards import codec
from cinic_shards.options import usable_cores
from cinic_shards.read.dataset import Dataset

BATCH = 1024


def contenders(shards: str, split: str) -> dict[str, Callable[[int], object]]:
    """Name -> decodes one batch of 1,024 images, by its number."""
    reader = Dataset(shards).split(split)
    num_batches = len(reader) // BATCH
    shape = (BATCH, *reader.image_shape)
    batches = [np.arange(at * BATCH, (at + 1) * BATCH) for at in range(num_batches)]
    files = [[reader.payloads(rows)[i] for i in range(BATCH)] for rows in batches]
    blocks: dict[str, list[Any]] = {"zstd": [], "raw": []}
    for rows in batches:
        images = np.empty(shape, np.uint8)
        reader.read_images(rows, images)
        for encoding, payloads in blocks.items():
            payloads.append(np.frombuffer(codec.ENCODINGS[encoding].encode(images), np.uint8))

    def png(number: int) -> None:
        codec.decode_png(reader.payloads(batches[number]), np.empty(shape, np.uint8))

    def block(encoding: str) -> Callable[[int], None]:
        def decode(number: int) -> None:
            payloads = codec.Payloads.one(blocks[encoding][number])
            codec.ENCODINGS[encoding].decode(payloads, np.empty(shape, np.uint8))

        return decode

    def one_by_one(decode: Callable[[bytes], Any]) -> Callable[[int], None]:
        def decode_all(number: int) -> None:
            out = np.empty(shape, np.uint8)
            for row, file in enumerate(files[number]):
                out[row] = decode(file)

        return decode_all

    found: dict[str, Callable[[int], object]] = {"cinic-shards, png": png}
    found |= {f"cinic-shards, {encoding}": block(encoding) for encoding in blocks}
    found["pillow"] = one_by_one(lambda data: Image.open(io.BytesIO(data)).convert("RGB"))
    for name, module in (("opencv", "cv2"), ("imagecodecs", "imagecodecs")):
        try:
            library = importlib.import_module(module)
        except ImportError:
            print(f"{name}: not installed, left out", file=sys.stderr)
            continue
        found[name] = one_by_one(_opencv(library) if name == "opencv" else library.png_decode)
    return found


def _opencv(library: Any) -> Callable[[bytes], Any]:
    """OpenCV gives blue first."""
    return lambda data: library.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1]


def main() -> None:
    """Run all contenders and print a JSON line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--batches", type=int, default=16, help="of 1,024 images, a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    args = parser.parse_args()
    found = contenders(args.shards, args.split)
    num_batches = len(Dataset(args.shards).split(args.split)) // BATCH
    numbers = [number % num_batches for number in range(args.batches)]
    for threads in sorted({1, usable_cores()}):
        rates: dict[str, list[float]] = {name: [] for name in found}
        with ThreadPoolExecutor(threads) as executor:
            for _ in range(args.repeats + 1):
                for name, decode in found.items():
                    start = time.perf_counter()
                    for _ in executor.map(decode, numbers):
                        pass
                    rates[name].append(BATCH * len(numbers) / (time.perf_counter() - start))
        for name, values in rates.items():
            line = {
                "contender": name,
                "threads": threads,
                "images_per_second": round(statistics.median(values[1:])),
                "rates": [round(value) for value in values[1:]],
            }
            print(json.dumps(line), file=args.out, flush=True)


if __name__ == "__main__":
    main()
