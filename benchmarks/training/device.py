r"""Check and measure loading onto a device; print one JSON line for each result.

    python -m benchmarks.training.device cinic shards-png shards-zstd shards-raw
    python -m benchmarks.training.device tree shards --device cpu --seconds 0.1 --steps 2 \
        --model tiny --runs 1 --fast-epochs 1 --fast-width 8 --fast-fraction 0.01

Result: none on a GPU yet: it has only run on CPUs. With the default options it should take less
than six minutes on a GPU. It answers, in this order:

``equal``
    Are batches on the device those of the CPU to the bit, augmented, from each dataset given, with
    ``cache="device"`` too, and in both memory formats?
``rate``
    How many augmented images a second arrive on the device, from each dataset, from ImageFolder,
    and from FFCV if it is installed?
``training``
    How fast does ``--model`` (ResNet-18) train in bfloat16, with a loader and with one batch that
    stays on the device? Their quotient is the loader's efficiency.
``fast``
    What accuracy and time do runs of ``benchmarks.training.fast`` reach?
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks import argument_parser
from benchmarks.contenders import ffcv, imagefolder
from benchmarks.contenders.base import Reading
from benchmarks.training.fast import Bench, Fast
from benchmarks.training.models import build
from cinic_shards import Augment, Batch, ShardLoader
from cinic_shards.loader.world import find_device
from cinic_shards.options import usable_cores

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
AUGMENT = Augment(cutout=8, normalize="cinic10")


def say(question: str, **values: Any) -> None:
    """Print a result."""
    print(json.dumps({"question": question, **values}), flush=True)


def open_loader(args: argparse.Namespace, shards: str, **options: Any) -> ShardLoader:
    """Open a loader with the options that all questions share."""
    return ShardLoader(shards, "train", batch_size=args.batch_size, augment=AUGMENT, **options)


def equal(args: argparse.Namespace) -> None:
    """Compare batches with those of the CPU."""
    for shards in args.shards:
        for name, memory_format in FORMATS.items():
            for cache in ("none", "device"):
                options: dict[str, Any] = {"memory_format": memory_format}
                there = open_loader(args, shards, device=args.device, cache=cache, **options)
                here = open_loader(args, shards, **options)
                pairs = list(islice(zip(there, here, strict=True), args.steps))
                is_equal = all(
                    torch.equal(ours.images.cpu(), expected.images)
                    and ours.images.stride() == expected.images.stride()
                    and torch.equal(ours.labels.cpu(), expected.labels)
                    and torch.equal(ours.indices, expected.indices)
                    for ours, expected in pairs
                )
                say("equal", shards=shards, memory_format=name, cache=cache, batches=len(pairs),
                    is_equal=is_equal)  # fmt: skip


def wait(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def per_second(
    args: argparse.Namespace, batches: Iterable[Any], use: Callable[[Any], None]
) -> float:
    """Return samples a second of epochs; the first tenth of the time is a warm-up."""

    def endless() -> Iterator[Any]:
        while True:
            yield from batches

    count, start, begun = 0, 0.0, time.perf_counter()
    for batch in endless():
        use(batch)
        now = time.perf_counter()
        if start:
            count += len(batch[1])
        elif now - begun >= args.seconds / 10:
            wait(args.device)
            start = time.perf_counter()
        if start and count and now - start >= args.seconds:
            break
    wait(args.device)
    return count / (time.perf_counter() - start)


def rate(args: argparse.Namespace, scratch: Path) -> None:
    """Measure how fast augmented batches arrive on the device."""

    def arrive(batch: Any) -> None:
        for one in batch:
            torch.as_tensor(one).to(args.device, non_blocking=True)

    for shards in args.shards:
        for cache in ("none", "device"):
            loader = open_loader(args, shards, device=args.device, cache=cache)
            say("rate", contender=f"cinic_shards, {loader.dataset.manifest.encoding}",
                cache=cache, images_per_second=round(per_second(args, loader, arrive)))  # fmt: skip
    for contender in (*imagefolder.CONTENDERS, *ffcv.CONTENDERS):
        if missing := contender.missing():
            say("rate", contender=contender.name, missing=missing)
            continue
        out = scratch / contender.library
        out.mkdir()
        contender.build(Path(args.tree) / "train", out)
        reading = Reading(workers=usable_cores(), batch_size=args.batch_size, augmented=True)
        images = per_second(args, contender.epochs(out, reading), arrive)
        say("rate", contender=contender.name, images_per_second=round(images))


def training(args: argparse.Namespace) -> None:
    """Measure training with the first dataset's loader, and with one batch."""
    for name, memory_format in FORMATS.items():
        model = build(args.model).to(args.device)
        model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def step(
            batch: Batch, model: Any = model, optimizer: torch.optim.Optimizer = optimizer
        ) -> None:
            with torch.autocast(args.device.type, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        loader = open_loader(args, args.shards[0], device=args.device, memory_format=memory_format)
        same = per_second(args, [loader.peek()], step)
        loaded = per_second(args, loader, step)
        say("training", memory_format=name, images_per_second=round(loaded),
            of_one_batch=round(same), efficiency=round(loaded / same, 3))  # fmt: skip


def fast(args: argparse.Namespace) -> None:
    """Run the fast recipe."""
    given = {"epochs": args.fast_epochs, "width": args.fast_width, "fraction": args.fast_fraction}
    bench = Bench(args.shards[0], Fast(**given), args.device, by_compiler=args.compile)
    bench.run(0, most_steps=10)
    outcomes = [bench.run(seed) for seed in range(args.runs)]
    accuracies = [outcome.accuracy for outcome in outcomes]
    say("fast", runs=args.runs, accuracy=statistics.fmean(accuracies), accuracies=accuracies,
        seconds=[round(outcome.seconds, 2) for outcome in outcomes])  # fmt: skip


def main() -> None:
    """Answer all questions."""
    parser = argument_parser(__doc__)
    parser.add_argument("tree", help="folder of PNGs, for the other loaders")
    parser.add_argument("shards", nargs="+", help="the same images, packed; one for each encoding")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each measurement")
    parser.add_argument("--steps", type=int, default=20, help="batches that are compared")
    parser.add_argument("--model", default="resnet18", help="of benchmarks.training.models")
    parser.add_argument("--runs", type=int, default=5, help="runs of the fast recipe")
    parser.add_argument("--fast-epochs", type=int, default=Fast().epochs)
    parser.add_argument("--fast-width", type=int, default=Fast().width)
    parser.add_argument("--fast-fraction", type=float, default=1.0)
    parser.add_argument("--compile", action="store_true", help="use torch.compile in the recipe")
    args = parser.parse_args()
    args.device = find_device(args.device)
    torch.backends.cudnn.benchmark = True
    card = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else "none"
    say("machine", card=card, cores=usable_cores(), torch=torch.__version__)
    equal(args)
    with tempfile.TemporaryDirectory() as scratch:
        rate(args, Path(scratch))
    training(args)
    fast(args)


if __name__ == "__main__":
    main()
