r"""How many images a second does each loader deliver, from the same images?

Contenders: torchvision's ImageFolder (best of 0, 2 and 4 workers), stock webdataset on our shards
(best of 2 and 4 workers, and of its two fast decoders) and ShardLoader. Each delivers whole
shuffled epochs of uint8 images, or of float32 normalised ones; start and end of an epoch count.

Method: one process; the contenders take turns, epoch by epoch, so that a machine that slows down
slows all of them; the first epoch of each is not counted; the median of the others is. Workers
stay alive between epochs. Warm: all files of an epoch are read once before it. Cold: each epoch in
a process of its own, the page cache dropped when it has delivered a batch of another split (so its
libraries are loaded: it is the data that is cold); the opening of the dataset counts.

    python benchmarks/bench_loader.py --tree ./cinic --shards ./shards --out loader.jsonl

What we saw, and why, is in the README's table; ``tools/claims/loader_speed.py`` prints it anew.
"""

import argparse
import gc
import glob
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cinic_shards.loader.bench import (
    IMAGEFOLDER_WORKERS,
    Contender,
    Result,
    cinic_shards,
    imagefolder,
    images_per_second,
    import_torchvision,
    measure,
    shards_of,
)
from cinic_shards.read.dataset import Dataset

WEBDATASET_WORKERS = (2, 4)
WEBDATASET_DECODERS = ("torchrgb8", "pil")

Statistics = tuple[Sequence[float], Sequence[float]]


def webdataset_epochs(
    urls: Sequence[str],
    *,
    batch_size: int,
    workers: int,
    decoder: str = "torchrgb8",
    normalize: Statistics | None = None,
) -> Iterable[Any]:
    """Stock webdataset as its documentation advises: shuffle and batch in the workers.

    Args:
        urls: of the shards; files, or whatever webdataset opens.
        batch_size: a batch's images.
        workers: of the DataLoader.
        decoder: ``torchrgb8`` decodes to uint8 tensors, ``torchrgb`` to float32; ``pil`` leaves the
            rest to torchvision's transforms.
        normalize: mean and standard deviation.
    """
    import_torchvision()
    import webdataset as wds
    from torchvision import transforms

    dataset = wds.WebDataset(list(urls), shardshuffle=len(urls), empty_check=False).shuffle(1000)
    steps: list[Any] = []
    if decoder == "pil":
        dataset = dataset.decode("pil")
        steps.append(transforms.PILToTensor() if normalize is None else transforms.ToTensor())
    else:
        dataset = dataset.decode("torchrgb8" if normalize is None else "torchrgb")
    if normalize is not None:
        steps.append(transforms.Normalize(*normalize))
    dataset = dataset.to_tuple("png", "cls")
    if steps:
        dataset = dataset.map_tuple(transforms.Compose(steps), int)
    dataset = dataset.batched(batch_size, partial=False)
    return wds.WebLoader(  # type: ignore[no-any-return]
        dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )


def webdataset(
    shards: str | os.PathLike[str],
    split: str,
    *,
    batch_size: int,
    workers: int,
    decoder: str = "torchrgb8",
    normalize: Statistics | None = None,
) -> Contender:
    """Stock webdataset on our shards: see ``webdataset_epochs``."""

    def open_loader() -> Iterable[Any]:
        return webdataset_epochs(
            sorted(glob.glob(shards_of(shards, split))),
            batch_size=batch_size,
            workers=workers,
            decoder=decoder,
            normalize=normalize,
        )

    setting = f"{workers} workers, {decoder}"
    return Contender("webdataset", setting, shards_of(shards, split), open_loader)


def all_contenders(
    tree: str, shards: str, split: str, *, batch_size: int, dtype: str
) -> list[Contender]:
    """Every contender at every setting."""
    pixels = Dataset(shards).split(split).pixels
    normalize = (pixels.mean, pixels.std) if dtype == "float32" else None
    contenders = [
        imagefolder(tree, split, batch_size=batch_size, workers=workers, normalize=normalize)
        for workers in IMAGEFOLDER_WORKERS
    ]
    contenders += [
        webdataset(
            shards,
            split,
            batch_size=batch_size,
            workers=workers,
            decoder=decoder,
            normalize=normalize,
        )
        for workers in WEBDATASET_WORKERS
        for decoder in WEBDATASET_DECODERS
    ]
    contenders.append(
        cinic_shards(shards, split, batch_size=batch_size, normalize=normalize is not None)
    )
    return contenders


def drop_page_cache() -> bool:
    """Empty the page cache, where this process may."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def cold_epoch(contender: Contender, other_split: Contender) -> float | None:
    """Images a second of one epoch from an empty page cache; None where it cannot be emptied.

    ``other_split`` is the same contender on other data: its first batch loads the libraries.
    """
    next(iter(other_split.open()))
    gc.collect()  # a file that is still mapped would keep its pages
    if not drop_page_cache():
        return None
    start = time.perf_counter()
    batches = contender.open()
    opened = time.perf_counter()
    rate = images_per_second(batches)
    end = time.perf_counter()
    return rate * (end - opened) / (end - start)


def row(result: Result, *, cache: str, dtype: str) -> dict[str, Any]:
    """One JSON line."""
    return {
        "contender": result.name,
        "setting": result.setting,
        "cache": cache,
        "dtype": dtype,
        "images_per_second": round(result.median, 1),
        "rates": [round(rate, 1) for rate in result.rates],
    }


def main() -> None:
    """Run all contenders and print a JSON line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", required=True)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3, help="counted epochs of each contender")
    parser.add_argument("--dtypes", nargs="+", default=["uint8", "float32"])
    parser.add_argument("--no-cold", action="store_true", help="leave the cold epochs out")
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    parser.add_argument("--cold-one", help=argparse.SUPPRESS)
    args = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def contenders(dtype: str, split: str = args.split) -> list[Contender]:
        return all_contenders(
            args.tree, args.shards, split, batch_size=args.batch_size, dtype=dtype
        )

    if args.cold_one is not None:
        splits = Dataset(args.shards).manifest.splits
        other = next(split.name for split in splits if split.name != args.split)
        position = int(args.cold_one)
        pair = contenders("uint8")[position], contenders("uint8", other)[position]
        print(json.dumps(cold_epoch(*pair)))
        return
    for dtype in args.dtypes:
        for result in measure(contenders(dtype), epochs=args.epochs, progress=say):
            print(json.dumps(row(result, cache="warm", dtype=dtype)), file=args.out, flush=True)
    if args.no_cold:
        say("cold epochs: skipped, as asked")
        return
    for position, contender in enumerate(contenders("uint8")):
        command = [
            *(sys.executable, __file__, "--cold-one", str(position)),
            *("--tree", args.tree, "--shards", args.shards, "--split", args.split),
            *("--batch-size", str(args.batch_size)),
        ]
        rates = []
        for epoch in range(args.epochs):
            say(f"{contender.name} ({contender.setting}), cold, {epoch + 1} of {args.epochs}")
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            rate = json.loads(output.splitlines()[-1])
            if rate is None:
                say("cold epochs: skipped, this user may not drop the page cache")
                return
            rates.append(rate)
        result = Result(contender.name, contender.setting, tuple(rates))
        print(json.dumps(row(result, cache="cold", dtype="uint8")), file=args.out, flush=True)


if __name__ == "__main__":
    main()
