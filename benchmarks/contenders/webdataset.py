"""Stock webdataset: its ShardWriter's shards, shuffled and batched in the workers.

As its documentation advises (https://webdataset.github.io/webdataset): shards in random order, a
shuffle buffer of 1,000, batches made in the workers, WebLoader without batching of its own. uint8
by ``torchrgb8``, which is its fastest decoder of PNGs here; augmented images by "pil" and
torchvision. ``mtime=0`` makes its shards a third smaller. Pixels as ``.npy`` members: no decoder is
faster. Shards of 2,560, so that four workers have some to choose from.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from contenders.base import (
    Batches,
    Contender,
    Reading,
    import_torchvision,
    per_image,
    pixels_of,
    samples_of,
)


def build(kind: str) -> Callable[[Path, Path], None]:
    """ShardWriter, of "png" or "npy" members."""

    def write(split: Path, out: Path) -> None:
        import webdataset

        pattern = str(out / "%05d.tar")
        samples = samples_of(split)
        size = min(2560, -(-len(samples) // 4))
        with webdataset.ShardWriter(pattern, maxcount=size, verbose=0, mtime=0) as writer:
            for path, label in shuffled(samples):
                image = path.read_bytes() if kind == "png" else pixels_of(path)
                writer.write({"__key__": path.stem, kind: image, "cls": label})

    return write


def shuffled(samples: list[Any]) -> list[Any]:
    """Once, so that a shard holds every class: a buffer of 1,000 cannot mix sorted classes."""
    import random

    return random.Random(0).sample(samples, len(samples))


def epochs(kind: str) -> Callable[[Path, Reading], Batches]:
    """WebLoader over WebDataset."""

    def open_loader(out: Path, reading: Reading) -> Batches:
        import_torchvision()
        import webdataset

        urls = list(reading.signed) or sorted(str(path) for path in out.glob("*.tar"))
        dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        dataset = dataset.shuffle(1000)
        if kind == "npy":
            dataset = dataset.decode().to_tuple("npy", "cls").map_tuple(per_image(reading), int)
        elif reading.augmented:
            dataset = dataset.decode("pil").to_tuple("png", "cls")
            dataset = dataset.map_tuple(per_image(reading), int)
        else:
            dataset = dataset.decode("torchrgb8").to_tuple("png", "cls")
        loader: Batches = webdataset.WebLoader(
            dataset.batched(reading.batch_size),
            batch_size=None,
            num_workers=reading.workers,
            persistent_workers=reading.workers > 0,
        )
        return loader

    return open_loader


CONTENDERS = [
    Contender(
        name=f"webdataset, {name}",
        build=build(kind),
        epochs=epochs(kind),
        modules=("webdataset", "torchvision"),
        streams=True,
    )
    for name, kind in (("png", "png"), ("raw", "npy"))
]
