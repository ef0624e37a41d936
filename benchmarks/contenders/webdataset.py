"""Stock webdataset: shards of its ShardWriter, shuffled and batched in the workers.

As its documentation advises (https://webdataset.github.io/webdataset): shards in random order, a
shuffle buffer of 1,000, batches made in the workers, and a WebLoader that does not batch. PNGs are
decoded to uint8 by either of its fast decoders, ``torchrgb8`` and ``pil``; augmented images by
``pil`` and torchvision. ``mtime=0`` makes its shards a third smaller. Pixels are ``.npy`` members:
no decoder is faster. Shards have 2,560 images, so that four workers have several to choose from.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    Batches,
    Contender,
    Reading,
    import_torchvision,
    per_image,
    pixels_of,
    samples_of,
)


def build(member: str) -> Callable[[Path, Path], None]:
    """Build with ShardWriter, with "png" or "npy" members."""

    def write(split: Path, out: Path) -> None:
        import webdataset

        pattern = str(out / "%05d.tar")
        samples = samples_of(split)
        size = min(2560, -(-len(samples) // 4))
        with webdataset.ShardWriter(pattern, maxcount=size, verbose=0, mtime=0) as writer:
            for path, label in shuffled(samples):
                image = path.read_bytes() if member == "png" else pixels_of(path)
                writer.write({"__key__": path.stem, member: image, "cls": label})

    return write


def shuffled(samples: list[Any]) -> list[Any]:
    """Shuffle once: a buffer of 1,000 cannot mix sorted classes."""
    import random

    return random.Random(0).sample(samples, len(samples))


def epochs(member: str, decoder: str) -> Callable[[Path, Reading], Batches]:
    """Open a WebLoader over WebDataset."""

    def open_loader(out: Path, reading: Reading) -> Batches:
        import_torchvision()
        import webdataset

        urls = list(reading.signed) or sorted(str(path) for path in out.glob("*.tar"))
        dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        dataset = dataset.shuffle(1000)
        chosen = "pil" if decoder and reading.augmented else decoder
        dataset = dataset.decode(*filter(None, [chosen])).to_tuple(member, "cls")
        if chosen != "torchrgb8":
            dataset = dataset.map_tuple(per_image(reading), int)
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
        build=build(member),
        epochs=epochs(member, decoder),
        modules=("webdataset", "torchvision"),
        streams=True,
    )
    for name, member, decoder in (
        ("png", "png", "torchrgb8"),
        ("png by pil", "png", "pil"),
        ("raw", "npy", ""),
    )
]
