r"""How many images a second can be cropped, flipped and normalised to float32?

Ours, as in ``ShardLoader(augment=Augment())``: one pass over a batch of 512 in memory, and the same
as batched torch operations. torchvision's v2 transforms: on each image, as a Dataset does; and once
for the whole batch, so that every image is cropped and flipped alike: what is fast there, and no
longer the same augmentation. One thread each; in turn; medians.

FFCV, with ``--ffcv``: whole epochs of its Loader over raw pixels, plain and with its flip,
translate (the padded crop) and NormalizeImage; 2 workers, batches of 512, OS cache, random order.
Our loader from ``raw`` shards with 2 workers takes turns with it. The first epoch, in which both
compile, does not count.

    python benchmarks/bench_augment.py --out augment.jsonl \
      --ffcv ./venv-ffcv/bin/python --shards ./raw-shards
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from cinic_shards import Augment, ShardLoader
from cinic_shards.augment import Transform
from cinic_shards.bench import images_per_second, import_torchvision

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


PIPELINES = "uint8", "uint8, augmented", "float32, augmented"


def epochs(shards: str, ffcv_python: str) -> Iterator[tuple[str, float]]:
    """Name and images a second of one epoch of each contender, in turn, for ever."""
    augments = None, Augment(dtype="uint8"), Augment(normalize=(MEAN, STD))
    loaders = [ShardLoader(shards, batch_size=BATCH, workers=2, augment=one) for one in augments]
    with tempfile.TemporaryDirectory() as folder:
        images, labels = zip(*loaders[0], strict=True)
        pixels = torch.cat(images).permute(0, 2, 3, 1).contiguous()
        np.savez(Path(folder, "samples.npz"), images=pixels.numpy(), labels=torch.cat(labels))
        script = Path(__file__).with_name("ffcv_epochs.py")
        with subprocess.Popen(
            [ffcv_python, str(script), folder, json.dumps([MEAN, STD])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as ffcv:
            assert ffcv.stdin is not None and ffcv.stdout is not None
            while True:
                for pipeline, loader in zip(PIPELINES, loaders, strict=True):
                    yield f"cinic-shards, epoch, {pipeline}", images_per_second(loader)
                    print(pipeline, file=ffcv.stdin, flush=True)
                    yield f"ffcv, epoch, {pipeline}", float(ffcv.stdout.readline())


def main() -> None:
    """Run all contenders and print a JSON line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ffcv", metavar="PYTHON", help="one that has FFCV; needs --shards")
    parser.add_argument("--shards", help="of the encoding raw")
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
    if args.ffcv and args.shards:
        num_epochs = 2 * len(PIPELINES) * (args.repeats + 1)
        for name, rate in itertools.islice(epochs(args.shards, args.ffcv), num_epochs):
            rates.setdefault(name, []).append(rate)
    else:
        print("ffcv: left out: needs --ffcv and --shards", file=sys.stderr)
    for name, values in rates.items():
        line = {
            "contender": name,
            "images_per_second": round(statistics.median(values[1:])),
            "rates": [round(value) for value in values[1:]],
        }
        print(json.dumps(line), file=args.out, flush=True)


if __name__ == "__main__":
    main()
