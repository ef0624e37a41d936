"""LitData: chunks of PNG files, or of pixels as flat arrays, which need no header for each image.

As its README advises (https://github.com/Lightning-AI/litData): ``optimize`` with chunks of 64 MB
and a worker per core, StreamingDataset and StreamingDataLoader, which map local chunks into memory;
workers persist. ``batch_decode`` has its default, automatic.

StreamingRawDataset reads the PNGs themselves, in a shuffling DataLoader, a batch at a time; images
are decoded in ``collate_fn``, as its documentation prefers. ``max_prefetch=0``: it looks ahead in
the order of the files, which is of no use to a shuffled epoch. It keeps a list of the files for the
next start; ours is in the benchmark's folder, because the default also writes it beside the images.
"""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    SIDE,
    Batches,
    Contender,
    Decode,
    Reading,
    data_loader,
    import_torchvision,
    per_image,
    pixels_of,
    samples_of,
    stack,
)


def sample_of_files(sample: tuple[str, int]) -> dict[str, Any]:
    """Return a sample with the unchanged file."""
    path, label = sample
    return {"image": Path(path).read_bytes(), "label": label}


def sample_of_pixels(sample: tuple[str, int]) -> dict[str, Any]:
    """Return a sample with the pixels along one axis: LitData then stores only bytes."""
    path, label = sample
    return {"image": pixels_of(Path(path)).reshape(-1), "label": label}


def build(make: Callable[[tuple[str, int]], Any]) -> Callable[[Path, Path], None]:
    """Build with ``optimize``."""

    def write(split: Path, out: Path) -> None:
        import_torchvision()
        from litdata import optimize

        optimize(
            fn=make,
            inputs=[(str(path), label) for path, label in samples_of(split)],
            output_dir=str(out),
            chunk_bytes="64MB",
            num_workers=os.cpu_count(),
            reorder_files=False,
            verbose=False,
        )

    return write


class Collate:
    """Joins samples to a batch; a class, so that LitData can pickle it for its spawned workers."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.transform: Any = None

    def __call__(self, samples: list[dict[str, Any]]) -> Any:
        import torch

        if self.transform is None:
            self.transform = per_image(self.reading)
        images = [self.transform(self.decoded(sample["image"])) for sample in samples]
        return stack(images), torch.tensor([sample["label"] for sample in samples])

    def decoded(self, image: Any) -> Any:
        """Return a PIL image from a file's bytes, or uint8 (H, W, 3) from a flat array."""
        from PIL import Image

        if hasattr(image, "reshape"):
            return image.reshape(SIDE, SIDE, 3)
        return Image.open(io.BytesIO(image)).convert("RGB")


def epochs(out: Path, reading: Reading) -> Batches:
    """Open a StreamingDataLoader over StreamingDataset."""
    import_torchvision()
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # The benchmark's server has no TLS, and LitData has no option to allow that.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"

    dataset = StreamingDataset(
        reading.url or str(out),
        cache_dir=reading.cache or None,
        shuffle=True,
        drop_last=False,
        storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]} if reading.url else None,
    )
    loader: Batches = StreamingDataLoader(
        dataset,
        batch_size=reading.batch_size,
        num_workers=reading.workers,
        persistent_workers=reading.workers > 0,
        collate_fn=Collate(reading),
    )
    return loader


def link(split: Path, out: Path) -> None:
    """Make a symbolic link, and write the list of files; there is nothing to convert."""
    (out / "split").symlink_to(split.resolve())
    samples = samples_of(out / "split")
    files = [(str(path.resolve()), path.stat().st_size, label) for path, label in samples]
    (out / "files.json").write_text(json.dumps(files))


class Files:
    """Joins a batch of files and labels; a class, so that it can be pickled."""

    def __init__(self, reading: Reading) -> None:
        self.decode = Decode("png", reading)

    def __call__(self, samples: list[tuple[bytes, int]]) -> Any:
        import torch

        images, labels = zip(*samples, strict=True)
        return self.decode(images), torch.tensor(labels)


def raw_epochs(out: Path, reading: Reading) -> Batches:
    """Open a DataLoader over StreamingRawDataset."""
    import_torchvision()
    from litdata import StreamingRawDataset
    from litdata.raw.indexer import FileIndexer, FileMetadata

    files = json.loads((out / "files.json").read_text())
    labels = [label for _, _, label in files]

    class Listed(FileIndexer):  # type: ignore[misc]
        def build_or_load_index(self, *where: Any) -> list[Any]:
            return [FileMetadata(path, size) for path, size, _ in files]

    class Labelled(StreamingRawDataset):  # type: ignore[misc]
        def __getitems__(self, rows: list[int]) -> list[tuple[bytes, int]]:
            found = super().__getitems__(rows)
            return [(png, labels[row]) for png, row in zip(found, rows, strict=True)]

    dataset = Labelled(str(out), indexer=Listed(), max_prefetch=0)
    loader: Batches = data_loader(dataset, reading, shuffle=True, collate_fn=Files(reading))
    return loader


CONTENDERS = [
    Contender(
        name=f"LitData, {kind}",
        build=build(make),
        epochs=epochs,
        modules=("litdata", "torchvision"),
        environment="streaming",
        streams=True,
    )
    for kind, make in (("png", sample_of_files), ("raw", sample_of_pixels))
]
CONTENDERS.append(
    Contender(
        name="LitData StreamingRawDataset",
        build=link,
        epochs=raw_epochs,
        modules=("litdata", "torchvision"),
        environment="streaming",
    )
)
