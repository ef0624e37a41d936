"""Images a second of ImageFolder and of the loader, on the same images in the same run.

Needs torchvision for ImageFolder (``pip install cinic-shards[bench]``).
"""

import glob
import importlib
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from cinic_shards.errors import OptionError
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.read.dataset import Dataset

IMAGEFOLDER_WORKERS = (0, 2, 4)
"""DataLoader worker counts that ImageFolder is tried with; its best one counts."""

_stub_operators: list[Any] = []


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to read an epoch."""

    name: str
    setting: str
    """What was chosen for it, such as its number of workers."""
    data: str
    """A glob pattern of the files that an epoch reads."""
    open: Callable[[], Iterable[Any]]
    """Makes an object that yields one epoch of (images, labels) each time it is iterated."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one contender's epochs took."""

    name: str
    setting: str
    rates: tuple[float, ...]
    """Images a second of each counted epoch, its start and end included."""

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def measure(
    contenders: Sequence[Contender],
    *,
    epochs: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Result]:
    """Time ``epochs`` epochs of each contender after one that does not count.

    The contenders take turns epoch by epoch, so that a machine that slows down slows all of them.
    Before each epoch all of its files are read once: some systems empty their page cache by and by.
    """
    rates: list[list[float]] = [[] for _ in contenders]
    with warnings.catch_warnings():
        # More workers than cores are tried on purpose.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        opened = [contender.open() for contender in contenders]
        for epoch in range(epochs + 1):
            for contender, batches, rate in zip(contenders, opened, rates, strict=True):
                progress(f"{contender.name} ({contender.setting}), epoch {epoch} of {epochs}")
                warm(contender.data)
                rate.append(images_per_second(batches))
    return [
        Result(contender.name, contender.setting, tuple(rate[1:]))
        for contender, rate in zip(contenders, rates, strict=True)
    ]


def warm(pattern: str) -> None:
    """Read the files that a glob pattern names, so that the page cache holds them."""
    buffer = bytearray(2**20)
    for path in glob.iglob(pattern):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def images_per_second(batches: Iterable[Any]) -> float:
    """The rate of one epoch."""
    start = time.perf_counter()
    num_images = sum(len(labels) for _, labels in batches)
    return num_images / (time.perf_counter() - start)


def best_by_name(results: Sequence[Result]) -> list[Result]:
    """Of each contender's settings, the fastest."""
    best: dict[str, Result] = {}
    for result in results:
        if result.name not in best or result.median > best[result.name].median:
            best[result.name] = result
    return list(best.values())


def cinic_shards(
    shards: str | os.PathLike[str], split: str, *, batch_size: int, normalize: bool = False
) -> Contender:
    """Our loader, as it comes."""

    def open_loader() -> ShardLoader:
        return ShardLoader(shards, split=split, batch_size=batch_size, normalize=normalize)

    return Contender("cinic-shards", "default threads", shards_of(shards, split), open_loader)


def shards_of(shards: str | os.PathLike[str], split: str) -> str:
    """A glob pattern of one split's shards."""
    return os.path.join(glob.escape(os.fspath(shards)), f"{glob.escape(split)}-*.tar")


def imagefolder(
    tree: str | os.PathLike[str],
    split: str,
    *,
    batch_size: int,
    workers: int,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Contender:
    """Torchvision's ImageFolder in a DataLoader with persistent workers.

    uint8 images by PILToTensor; with ``normalize``, float32 by ToTensor and Normalize.
    """
    folder = os.path.join(tree, split)

    def open_loader() -> Iterable[Any]:
        import_torchvision()
        from torchvision import datasets, transforms

        if normalize is None:
            transform: Any = transforms.PILToTensor()
        else:
            transform = transforms.Compose([
                transforms.ToTensor(),
                transforms.Normalize(*normalize),
            ])  # fmt: skip
        return torch.utils.data.DataLoader(
            datasets.ImageFolder(folder, transform),
            batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
        )

    pattern = os.path.join(glob.escape(folder), "*", "*")
    return Contender("imagefolder", f"{workers} workers", pattern, open_loader)


def import_torchvision() -> ModuleType:
    """torchvision, also beside a CPU build of torch that lacks the operators it registers with.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise OptionError(
            "ImageFolder needs torchvision; pip install 'cinic-shards[bench]'"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    # ImageFolder needs no operator: define the two that the import asks for, without a body.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _stub_operators.append(library)
    return importlib.import_module("torchvision")


def compare(
    tree: str | os.PathLike[str],
    shards: str | os.PathLike[str],
    *,
    split: str,
    batch_size: int,
    epochs: int,
    normalize: bool,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Result]:
    """ImageFolder at each worker count, and our loader, over one split.

    Raises:
        OptionError: tree and shards do not hold the same number of images.
    """
    dataset = Dataset(shards)
    reader = dataset.split(split)
    import_torchvision()
    pixels = reader.pixels
    contenders = [
        imagefolder(
            tree,
            split,
            batch_size=batch_size,
            workers=workers,
            normalize=(pixels.mean, pixels.std) if normalize else None,
        )
        for workers in IMAGEFOLDER_WORKERS
    ]
    found = sum(
        name.lower().endswith(".png")
        for _, _, names in os.walk(os.path.join(tree, split))
        for name in names
    )
    if found != len(reader):
        raise OptionError(
            f"{tree}/{split} holds {found:,} PNGs, {shards} has {len(reader):,} samples of that "
            "split; give the tree that the shards were packed from"
        )
    ours = cinic_shards(shards, split, batch_size=batch_size, normalize=normalize)
    return measure([*contenders, ours], epochs=epochs, progress=progress)
