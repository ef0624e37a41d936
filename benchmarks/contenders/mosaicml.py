"""MosaicML Streaming: MDS shards of PNG files, or of pixels as an ndarray of fixed shape.

As its performance guide advises (https://docs.mosaicml.com/projects/streaming): the defaults, which
are ``py1e`` shuffling and one canonical node per node; the batch size as an option of the dataset,
which partitions by it; and ``predownload`` of 8 batches. A fixed shape saves each sample a header.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    Batches,
    Contender,
    Reading,
    data_loader,
    import_torchvision,
    per_image,
    pixels_of,
    samples_of,
)


def build(kind: str) -> Callable[[Path, Path], None]:
    """Build with MDSWriter."""

    def write(split: Path, out: Path) -> None:
        import_torchvision()
        from streaming import MDSWriter

        samples = samples_of(split)
        shape = ",".join(map(str, pixels_of(samples[0][0]).shape))
        column = "bytes" if kind == "png" else f"ndarray:uint8:{shape}"
        with MDSWriter(out=str(out), columns={"image": column, "label": "int"}) as writer:
            for path, label in samples:
                image = path.read_bytes() if kind == "png" else pixels_of(path)
                writer.write({"image": image, "label": label})

    return write


def epochs(out: Path, reading: Reading) -> Batches:
    """Open a DataLoader over StreamingDataset."""
    import_torchvision()
    import io

    from PIL import Image
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()  # from a killed process
    transform = per_image(reading)

    class Images(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Any:
            sample = super().__getitem__(at)
            image = sample["image"]
            if isinstance(image, bytes):
                image = Image.open(io.BytesIO(image)).convert("RGB")
            return transform(image), sample["label"]

    dataset = Images(
        remote=reading.url or None,
        local=reading.cache if reading.url else str(out),
        shuffle=True,
        batch_size=reading.batch_size,
        predownload=8 * reading.batch_size,
    )
    loader: Batches = data_loader(dataset, reading)
    return loader


CONTENDERS = [
    Contender(
        name=f"MosaicML Streaming, {kind}",
        build=build(kind),
        epochs=epochs,
        modules=("streaming", "torchvision"),
        environment="streaming",
        streams=True,
    )
    for kind in ("png", "raw")
]
