"""Lance and LanceDB: a Lance dataset of PNG files, or of pixels in a column of fixed size.

Lance: SafeLanceDataset in the DataLoader of ``get_safe_loader``, which spawns its workers, as its
guide advises (https://lance.org/integrations/pytorch). It reads a batch by one ``take``. Its other
class, LanceDataset, does not shuffle images: it reads ranges of consecutive rows, at most in random
order.

LanceDB: StreamingDataset (https://docs.lancedb.com/training/data-loading), which shuffles row by
row by default, with a transform of Arrow batches; its order belongs to the instance, so each epoch
makes a new one. A split for each worker, as it requires, and reads of 512 rows instead of 64, as
its guide to observability advises (https://docs.lancedb.com/training/observability).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    SIDE,
    Batches,
    Contender,
    Decode,
    Reading,
    import_torchvision,
    pixels_of,
    samples_of,
)

_ROWS = 1000
"""Rows of an Arrow batch when a dataset is written."""


def build(kind: str) -> Callable[[Path, Path], None]:
    """Build with ``lance.write_dataset``."""

    def write(split: Path, out: Path) -> None:
        import lance
        import pyarrow as pa

        image = pa.binary() if kind == "png" else pa.binary(3 * SIDE * SIDE)
        schema = pa.schema({"image": image, "label": pa.int64()})
        samples = samples_of(split)

        def batches() -> Iterator[Any]:
            for at in range(0, len(samples), _ROWS):
                part = samples[at : at + _ROWS]
                images = [
                    path.read_bytes() if kind == "png" else pixels_of(path).tobytes()
                    for path, _ in part
                ]
                labels = [label for _, label in part]
                yield pa.record_batch({"image": images, "label": labels}, schema=schema)

        reader = pa.RecordBatchReader.from_batches(schema, batches())
        lance.write_dataset(reader, str(out / "split.lance"))

    return write


class Collate:
    """Joins rows to a batch; a class, so that spawned workers can unpickle it."""

    def __init__(self, decode: Decode) -> None:
        self.decode = decode

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        import torch

        labels = torch.tensor([row["label"] for row in rows])
        return self.decode([row["image"] for row in rows]), labels


def lance_epochs(kind: str) -> Callable[[Path, Reading], Batches]:
    """Open Lance's DataLoader over SafeLanceDataset."""

    def open_loader(out: Path, reading: Reading) -> Batches:
        import_torchvision()
        from lance.torch.data import SafeLanceDataset, get_safe_loader

        workers: dict[str, Any] = {}
        if reading.workers == 0:  # its defaults are for worker processes
            workers = {"persistent_workers": False, "multiprocessing_context": None}
        loader: Batches = get_safe_loader(
            SafeLanceDataset(str(out / "split.lance")),
            batch_size=reading.batch_size,
            num_workers=reading.workers,
            shuffle=True,
            collate_fn=Collate(Decode(kind, reading)),
            **workers,
        )
        return loader

    return open_loader


class Rows:
    """Turns an Arrow batch into samples; a class, so that spawned workers can unpickle it."""

    def __init__(self, decode: Decode) -> None:
        self.decode = decode

    def __call__(self, batch: Any) -> list[tuple[Any, int]]:
        images = self.decode(batch["image"].to_pylist())
        return [*zip(images, batch["label"].to_pylist(), strict=True)]


def lancedb_epochs(kind: str) -> Callable[[Path, Reading], Batches]:
    """Open epochs of LanceDB's StreamingDataset."""

    def open_loader(out: Path, reading: Reading) -> Batches:
        return Epochs(out, reading, kind)

    return open_loader


class Epochs:
    """Epochs, each a new StreamingDataset in a DataLoader."""

    def __init__(self, out: Path, reading: Reading, kind: str) -> None:
        import_torchvision()
        import lancedb

        self.table = lancedb.connect(str(out)).open_table("split")
        self.reading, self.rows = reading, Rows(Decode(kind, reading))
        self.epoch = -1

    def __iter__(self) -> Iterator[Any]:
        from lancedb.streaming import StreamingDataset
        from torch.utils.data import DataLoader

        self.epoch += 1
        dataset = StreamingDataset(
            self.table,
            num_splits=max(1, self.reading.workers),
            epoch=self.epoch,
            read_batch_size=512,
            transform=self.rows,
        )
        yield from DataLoader(
            dataset,
            batch_size=self.reading.batch_size,
            num_workers=self.reading.workers,
            multiprocessing_context="spawn" if self.reading.workers else None,
        )


CONTENDERS = [
    Contender(
        name=f"{library}, {kind}",
        build=build(kind),
        epochs=epochs(kind),
        modules=("lance", "lancedb", "torchvision"),
        environment="lance",
    )
    for library, epochs in (("Lance", lance_epochs), ("LanceDB", lancedb_epochs))
    for kind in ("png", "raw")
]
