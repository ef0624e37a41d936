"""How many images a second can be cropped, flipped and normalised to float32?

Ours, as in ``ShardLoader(augment=Augment())``: one pass over a batch of 512 in memory, and the same
as batched torch operations. torchvision's v2 transforms: on each image, as a Dataset does; and once
for the whole batch, so that every image is cropped and flipped alike: what is fast there, and no
longer the same augmentation. One thread each; in turn; medians.

Whole epochs, and FFCV's: ``suite.py``.

    python benchmarks/bench_augment.py --out augment.jsonl
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from cinic_shards import Augment
from cinic_shards.loader.augment import Transform
from cinic_shards.loader.bench import import_torchvision

BATCH = 512
SHAPE = (32, 32, 3)
MEAN, STD = (0.48, 0.47, 0.43), (0.24, 0.24, 0.26)


def contenders() -> dict[str, Callable[[], object]]:
    """Name -> augments one batch of 512 images."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), np.uint8)
    tensor = torch.from_numpy(images)
    transform = Transform(Augment(), (MEAN, STD), SHAPE, seed=0, device=torch.device("cpu"))
    addresses = images.ctypes.data + np.arange(BATCH) * images[0].size
    rows, out = torch.arange(BATCH), torch.empty((BATCH, *SHAPE))

    def ours() -> None:
        transform.on_cpu(addresses, transform.draw(rows.numpy(), epoch=0), out)

    def ours_on_device() -> object:
        draws = torch.from_numpy(transform.draw(rows.numpy(), epoch=0))
        return transform.on_device(tensor, rows, draws)

    import_torchvision()
    from torchvision.transforms import v2

    steps = v2.Compose([
        v2.RandomCrop(32, padding=4),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip
    channels_first = tensor.permute(0, 3, 1, 2).contiguous()
    return {
        "cinic-shards, one pass on the CPU": ours,
        "cinic-shards, torch operations": ours_on_device,
        "torchvision v2, each image": lambda: torch.stack([steps(one) for one in channels_first]),
        "torchvision v2, the batch alike": lambda: steps(channels_first),
    }


def main() -> None:
    """Run all contenders and print a JSON line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = contenders()
    rates: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(args.repeats + 1):
        for name, augment in found.items():
            start = time.perf_counter()
            augment()
            rates[name].append(BATCH / (time.perf_counter() - start))
    for name, values in rates.items():
        line = {
            "contender": name,
            "images_per_second": round(statistics.median(values[1:])),
            "rates": [round(value) for value in values[1:]],
        }
        print(json.dumps(line), file=args.out, flush=True)


if __name__ == "__main__":
    main()
