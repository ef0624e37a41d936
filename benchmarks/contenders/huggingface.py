"""Hugging Face datasets: an Arrow file of PNGs, or of pixels, mapped into memory.

As its guide to PyTorch advises (https://huggingface.co/docs/datasets/use_with_pytorch): a
DataLoader with a BatchSampler, so that a batch is one read of many rows. PNGs are an Image feature.
Pixels are binary values that numpy joins to a batch: 25 times as fast as the Array3D feature in the
format "numpy" or "torch".
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    Batches,
    Contender,
    Decode,
    Reading,
    data_loader,
    import_torchvision,
    pixels_of,
    samples_of,
)


def build(kind: str) -> Callable[[Path, Path], None]:
    """Build with ArrowWriter, which ``from_generator`` and ``load_dataset`` use."""

    def write(split: Path, out: Path) -> None:
        import datasets

        feature = datasets.Image() if kind == "png" else datasets.Value("binary")
        features = datasets.Features({"image": feature, "label": datasets.Value("int64")})
        with datasets.arrow_writer.ArrowWriter(
            path=str(out / "split.arrow"), features=features
        ) as writer:
            for path, label in samples_of(split):
                if kind == "png":
                    image: Any = {"bytes": path.read_bytes(), "path": None}
                else:
                    image = pixels_of(path).tobytes()
                writer.write({"image": image, "label": label})
            writer.finalize()

    return write


def epochs(kind: str) -> Callable[[Path, Reading], Batches]:
    """Open a DataLoader over Dataset."""

    def open_loader(out: Path, reading: Reading) -> Batches:
        import_torchvision()
        import datasets
        import torch
        from torch.utils.data import BatchSampler, RandomSampler

        decode = Decode(kind, reading)
        dataset = datasets.Dataset.from_file(str(out / "split.arrow"))

        def collate(rows: Any) -> Any:
            images = rows["image"]
            batch = decode(images) if kind == "raw" else decode.batch(images)
            return batch, torch.tensor(rows["label"])

        sampler = BatchSampler(RandomSampler(dataset), reading.batch_size, drop_last=False)
        loader: Batches = data_loader(
            dataset, reading, sampler=sampler, batch_size=None, collate_fn=collate
        )
        return loader

    return open_loader


CONTENDERS = [
    Contender(
        name=f"datasets, {kind}",
        build=build(kind),
        epochs=epochs(kind),
        modules=("datasets", "torchvision"),
    )
    for kind in ("png", "raw")
]
