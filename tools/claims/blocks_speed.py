"""What share of the bare kernels' speed does each encoding's loader reach, and of ImageFolder's?

One process, as many threads as usable cores, shuffled batches of 512 of the split train, warm; the
contenders in turn, medians of ``--repeats`` (20) epochs after one that does not count; ImageFolder,
with 0, 2 and 4 workers, the best of which counts, takes part in the first three.

The bare kernels: torch.index_select of random rows into new batches (and into reused ones), the
decoding of ``zstd`` blocks and of PNG batches, and the augmentation's kernel on rows in memory.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from claim import Claim

from cinic_shards import Augment, ShardLoader
from cinic_shards.loader.bench import IMAGEFOLDER_WORKERS, imagefolder
from cinic_shards.options import usable_cores
from cinic_shards.read.split import SplitReader

BATCH = 512
SHARES = {
    "raw / index_select": 0.70,
    "zstd / decoding its blocks": 0.75,
    "zstd, ram, later epochs / raw": 0.60,
    "png / decoding batches": 0.75,
    "raw, augmented float32 / fused kernel": 0.75,
}
"""Each is to be reached."""
AIMS = {
    "zstd / imagefolder": 35.0,
    "png / imagefolder": 10.0,
    "raw, augmented float32 / imagefolder float32": 80.0,
}
"""These are aimed at."""


def epoch_of(batches: Iterable[Any]) -> Callable[[], int]:
    """One epoch of a loader; gives its images."""
    return lambda: sum(len(labels) for _, labels in batches)


class Kernels:
    """The bare kernels, over all of a split's images in memory."""

    def __init__(self, raw: SplitReader, zstd: SplitReader, png: SplitReader) -> None:
        self.threads = ThreadPoolExecutor(usable_cores())
        self.zstd, self.png = zstd, png
        self.images = np.empty((len(raw), *raw.image_shape), np.uint8)
        for block in range(raw.num_blocks):
            raw.read_block(block, self.images[slice(*raw.block_starts[block : block + 2])])
        self.steps = range(len(raw) // BATCH)
        self.rows = np.random.default_rng(0).permutation(len(raw))
        self.rows_on_torch = torch.from_numpy(self.rows)
        self.table = torch.from_numpy(self.images.reshape(len(raw), -1))
        self.buffers: dict[Any, SimpleQueue[torch.Tensor]] = {}

    def reused(self, shape: tuple[int, ...], dtype: torch.dtype) -> "SimpleQueue[torch.Tensor]":
        """A few batches' memory to be used in turn."""
        if (shape, dtype) not in self.buffers:
            queue = self.buffers[shape, dtype] = SimpleQueue()
            for _ in range(2 * usable_cores()):
                queue.put(torch.empty(shape, dtype=dtype))
        return self.buffers[shape, dtype]

    def run(self, one: Callable[[int], object], count: int) -> None:
        """Run jobs on the threads, and let their results go."""
        for _ in self.threads.map(one, range(count)):
            pass

    def part(self, step: int) -> slice:
        return slice(step * BATCH, (step + 1) * BATCH)

    def index_select(self) -> int:
        def one(step: int) -> int:
            return len(torch.index_select(self.table, 0, self.rows_on_torch[self.part(step)]))

        self.run(one, len(self.steps))
        return BATCH * len(self.steps)

    def index_select_reused(self) -> int:
        queue = self.reused((BATCH, self.table.shape[1]), torch.uint8)

        def one(step: int) -> None:
            out = queue.get()
            torch.index_select(self.table, 0, self.rows_on_torch[self.part(step)], out=out)
            queue.put(out)

        self.run(one, len(self.steps))
        return BATCH * len(self.steps)

    def decode_zstd(self) -> int:
        starts = self.zstd.block_starts.tolist()
        queue = self.reused((max(np.diff(starts)), *self.zstd.image_shape), torch.uint8)

        def one(block: int) -> None:
            out = queue.get()
            self.zstd.read_block(block, out.numpy()[: starts[block + 1] - starts[block]])
            queue.put(out)

        self.run(one, self.zstd.num_blocks)
        return len(self.zstd)

    def decode_png(self) -> int:
        queue = self.reused((BATCH, *self.png.image_shape), torch.uint8)

        def one(step: int) -> None:
            out = queue.get()
            self.png.read_images(self.rows[self.part(step)], out.numpy())
            queue.put(out)

        self.run(one, len(self.steps))
        return BATCH * len(self.steps)

    def augment(self, loader: ShardLoader) -> Callable[[], int]:
        transform = loader._transform
        draws = transform.draw(self.rows, epoch=0)
        addresses = self.images.ctypes.data + self.rows * self.images[0].size

        def epoch() -> int:
            queue = self.reused((BATCH, *self.images.shape[1:]), torch.float32)

            def one(step: int) -> None:
                out, part = queue.get(), self.part(step)
                transform.on_cpu(addresses[part], draws[part], out)
                queue.put(out)

            self.run(one, len(self.steps))
            return BATCH * len(self.steps)

        return epoch


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        torch.set_num_threads(1)
        shards = {kind: claim.pack(kind, "--encoding", kind) for kind in ("png", "zstd", "raw")}
        loaders = {
            "raw": ShardLoader(shards["raw"]),
            "raw, order full": ShardLoader(shards["raw"], order="full"),
            "zstd": ShardLoader(shards["zstd"]),
            "zstd, ram, later epochs": ShardLoader(shards["zstd"], cache="ram"),
            "png": ShardLoader(shards["png"]),
            "raw, augmented float32": ShardLoader(shards["raw"], augment=Augment()),
            "raw, augmented uint8": ShardLoader(shards["raw"], augment=Augment(dtype="uint8")),
        }
        kernels = Kernels(*(loaders[kind]._reader for kind in ("raw", "zstd", "png")))
        contenders = {name: epoch_of(loader) for name, loader in loaders.items()}
        contenders |= {
            "index_select": kernels.index_select,
            "index_select, reused": kernels.index_select_reused,
            "decoding its blocks": kernels.decode_zstd,
            "decoding batches": kernels.decode_png,
            "fused kernel": kernels.augment(loaders["raw, augmented float32"]),
        }
        pixels = loaders["raw"]._reader.pixels
        for workers in IMAGEFOLDER_WORKERS:
            for kind, normalize in (("", None), (" float32", (pixels.mean, pixels.std))):
                folder = imagefolder(
                    claim.tree, "train", batch_size=BATCH, workers=workers, normalize=normalize
                )
                contenders[f"imagefolder{kind}, {workers} workers"] = epoch_of(folder.open())
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(claim.args.repeats + 1):
            for name, epoch in contenders.items():
                if name.startswith("imagefolder") and number > 3:
                    continue
                start = time.perf_counter()
                count = epoch()
                rates[name].append(count / (time.perf_counter() - start))
        median = {name: statistics.median(values[1:]) for name, values in rates.items()}
        for kind in ("", " float32"):
            names = [f"imagefolder{kind}, {workers} workers" for workers in IMAGEFOLDER_WORKERS]
            median[f"imagefolder{kind}"] = max(median[name] for name in names)
        ratios = {}
        for name in [*SHARES, *AIMS]:
            one, _, other = name.partition(" / ")
            ratios[name] = round(median[one] / median[other], 3)
        claim.report(
            figure=ratios,
            bar="at least " + ", ".join(f"{name} {bar:g}" for name, bar in SHARES.items()),
            holds=all(ratios[name] >= bar for name, bar in SHARES.items()),
            aims={name: {"aim": aim, "reached": ratios[name] >= aim} for name, aim in AIMS.items()},
            images_per_second={name: round(rate) for name, rate in median.items()},
            spread={name: [round(min(v[1:])), round(max(v[1:]))] for name, v in rates.items()},
        )


if __name__ == "__main__":
    if "--repeats" not in " ".join(sys.argv):
        sys.argv += ["--repeats", "20"]
    main()
