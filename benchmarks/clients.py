"""The process that measures many small loaders of one dataset; see ``questions/ours.py``."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil

from benchmarks.contenders.base import import_torchvision
from benchmarks.worker import answer, largest_process_mb
from cinic_shards import Dataset, Partition, ShardLoader, Subset, partition

BATCH = 32


def resident_mb() -> float:
    """Memory of this process in MB, with mapped files as far as they are in memory."""
    return float(psutil.Process().memory_info().rss) / 1e6


def images_in(batches: Iterable[Any]) -> int:
    """Read all batches; return the number of their images."""
    return sum(len(labels) for _, labels in batches)


class Clients:
    """Loaders of the parts of a partition; each method answers a request."""

    def __init__(self) -> None:
        self.loaders: list[Iterable[Any]] = []

    def open(self, kind: str, split: str, shards: str, count: int) -> dict[str, Any]:
        """Read the entire split once with one loader, then open one for each part.

        Args:
            kind: ``ImageFolder`` or ``cinic-shards``.
            split: folder of ``<class>/*.png``.
            shards: the dataset that was packed from it, as the split ``train``.
            count: number of parts.
        """
        parts = partition(shards, "dirichlet", parts=count, alpha=0.3, min_size=1)
        make = {"ImageFolder": of_folder, "cinic-shards": of_shards}[kind]
        whole, open_part = make(split, shards, parts)
        images_in(whole)
        before, start = resident_mb(), time.perf_counter()
        self.loaders = [open_part(name) for name in parts]
        return {"open_seconds": round(time.perf_counter() - start, 3), "one_loader_mb": before}

    def round(self) -> dict[str, Any]:
        """Read every loader once."""
        start = time.perf_counter()
        images = sum(map(images_in, self.loaders))
        return {
            "images": images,
            "seconds": time.perf_counter() - start,
            "mb": resident_mb(),
            "peak_mb": largest_process_mb(),
            "threads": threading.active_count(),
        }


def of_shards(
    split: str, shards: str, parts: Partition
) -> tuple[Iterable[Any], Callable[[str], Iterable[Any]]]:
    """Return a loader of everything, and a function that opens one of a part."""

    def open_part(name: str) -> ShardLoader:
        subset = Subset(partition=parts, part=name)
        return ShardLoader(shards, batch_size=BATCH, subset=subset, tail="short")

    return ShardLoader(shards, batch_size=BATCH, tail="short"), open_part


def of_folder(
    split: str, shards: str, parts: Partition
) -> tuple[Iterable[Any], Callable[[str], Iterable[Any]]]:
    """Return the same of torchvision's ImageFolder.

    Without worker processes: starting two for a few batches takes longer than these.
    """
    import_torchvision()
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    torch.set_num_threads(1)
    folder = ImageFolder(os.path.realpath(split), PILToTensor())
    indices = {name: one.tolist() for name, one in parts.indices(Dataset(shards)).items()}

    def open_part(name: str) -> Any:
        return DataLoader(Subset(folder, indices[name]), batch_size=BATCH, shuffle=True)

    return DataLoader(folder, batch_size=BATCH, shuffle=True), open_part


if __name__ == "__main__":
    answer(Clients())
