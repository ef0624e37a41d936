"""Compare ImageFolder and the loader in images per second: same images, same run.

ImageFolder needs torchvision (``pip install cinic-shards[bench]``). ``benchmarks/`` imports this
module in other libraries' environments too, so importing it needs no other library than torch.
"""

import importlib
import os
import statistics
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import torch

from cinic_shards.errors import OptionError
from cinic_shards.options import checked

IMAGEFOLDER_WORKERS = (0, 2, 4)
"""Numbers of DataLoader workers to try for ImageFolder; the best one counts."""

Key = TypeVar("Key", bound=Hashable)

_stub_operators: list[Any] = []


@dataclass(frozen=True, slots=True)
class Result:
    """Rates of one way to read epochs."""

    name: str
    setting: str
    """The setting used, such as the number of workers."""
    rates: tuple[float, ...]
    """Images per second of each measured epoch, including its startup and shutdown."""

    @property
    def median(self) -> float:
        """Median of ``rates``."""
        return statistics.median(self.rates)


def best_by_name(results: Sequence[Result]) -> list[Result]:
    """Return the fastest setting of each name."""
    best: dict[str, Result] = {}
    for result in results:
        if result.name not in best or result.median > best[result.name].median:
            best[result.name] = result
    return list(best.values())


def take_turns(
    jobs: Mapping[Key, Callable[[], int]],
    *,
    rounds: int,
    least_seconds: float = 0.0,
    before: Callable[[Key, int], object] = lambda key, number: None,
) -> dict[Key, list[float]]:
    """Measure jobs in turn, round by round, after a warm-up round.

    The jobs take turns, so that a machine that slows down slows all of them.

    Args:
        jobs: each does its work once and returns the number of images.
        rounds: the fewest rounds to measure.
        least_seconds: add rounds until this many seconds have passed, the warm-up included.
        before: called with the job's key and the round before each job; not timed. Round 0 is the
            warm-up.

    Returns:
        Key -> images per second in each measured round.
    """
    rates: dict[Key, list[float]] = {key: [] for key in jobs}
    number, begun = 0, time.perf_counter()
    while number <= rounds or time.perf_counter() - begun < least_seconds:
        for key, job in jobs.items():
            before(key, number)
            start = time.perf_counter()
            count = job()
            rates[key].append(count / (time.perf_counter() - start))
        number += 1
    return {key: values[1:] for key, values in rates.items()}


def count_images(batches: Iterable[Any]) -> int:
    """Read one epoch; return its number of images."""
    return sum(len(labels) for _, labels in batches)


def imagefolder(
    folder: str | os.PathLike[str],
    *,
    batch_size: int,
    workers: int,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Iterable[Any]:
    """Open torchvision's ImageFolder in a shuffling DataLoader with persistent workers.

    Args:
        folder: folder of one split.
        batch_size: images per batch; a smaller last batch is dropped.
        workers: number of worker processes; 0 loads in this process.
        normalize: (mean, std) on the scale 0 to 1, for float32 images by ToTensor and Normalize;
            None for uint8 images by PILToTensor.
    """
    import_torchvision()
    from torchvision import datasets, transforms

    if normalize is None:
        transform: Any = transforms.PILToTensor()
    else:
        transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*normalize)])
    return torch.utils.data.DataLoader(
        datasets.ImageFolder(folder, transform),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
    )


def import_torchvision() -> ModuleType:
    """Import torchvision, even with a CPU build of torch that lacks its operators.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    # ImageFolder needs no operators: declare the two that the import looks up, without a body.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _stub_operators.append(library)
    return importlib.import_module("torchvision")


@checked
def compare(
    tree: str | os.PathLike[str],
    shards: Sequence[str | os.PathLike[str]],
    *,
    split: str,
    batch_size: int,
    epochs: int,
    normalize: bool,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Result]:
    """Measure ImageFolder with each number of workers, and the loader on each dataset.

    All files are read once before each epoch, because some systems evict them from the page cache.

    Args:
        tree: the tree that the shards were packed from.
        shards: folders of the packed datasets, for example in several encodings.
        split: the split to read.
        batch_size: images per batch.
        epochs: number of measured epochs; one more comes first as a warm-up.
        normalize: float32 images, normalised by the split's statistics; else uint8.
        progress: called with a line of text before each epoch.

    Raises:
        OptionError: torchvision is not installed, or tree and shards do not hold the same number
            of images, or a dataset is given twice.
    """
    from cinic_shards.loader.loader import ShardLoader
    from cinic_shards.read.dataset import Dataset

    readers = {os.fspath(folder): Dataset(folder).split(split) for folder in shards}
    if len(readers) < len(shards):
        raise OptionError(f"{', '.join(str(one) for one in shards)}: give each dataset once")
    split = next(iter(readers.values())).name
    if "+" in split:
        raise OptionError(f"split {split!r}: ImageFolder reads one split; give one")
    _check_torchvision()
    folder = os.path.join(tree, split)
    pngs = _pngs(folder, {dataset: len(reader) for dataset, reader in readers.items()})
    pixels = next(iter(readers.values())).pixels
    normalizing = (pixels.mean, pixels.std) if normalize else None
    files: dict[tuple[str, str], list[str]] = {}

    def before(key: tuple[str, str], number: int) -> None:
        name, setting = key
        progress(f"{name} ({setting}), epoch {number} of {epochs}")
        _read_files(files[key])

    with warnings.catch_warnings():
        # More workers than cores are tried on purpose.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loaders: dict[tuple[str, str], Iterable[Any]] = {
            ("imagefolder", f"{workers} workers"): imagefolder(
                folder, batch_size=batch_size, workers=workers, normalize=normalizing
            )
            for workers in IMAGEFOLDER_WORKERS
        }
        files |= dict.fromkeys(loaders, pngs)
        for dataset, reader in readers.items():
            key = ("cinic-shards", f"{reader.encoding}: {dataset}")
            files[key] = [os.path.join(dataset, shard.name) for shard in reader.shards]
            loaders[key] = ShardLoader(
                dataset, split=split, batch_size=batch_size, normalize=normalize
            )
        jobs = {key: partial(count_images, batches) for key, batches in loaders.items()}
        rates = take_turns(jobs, rounds=epochs, before=before)
    return [Result(*key, tuple(values)) for key, values in rates.items()]


def plotter(path: str | os.PathLike[str]) -> Callable[[Sequence[Result]], None]:
    """Return a function that draws results to a file; errors come before anything is measured.

    It draws a bar for the best setting of ImageFolder and for each dataset: images per second.

    Args:
        path: see ``new_figure``.

    Raises:
        OptionError, OutputError: as ``new_figure``.
    """
    from cinic_shards.view.figure import new_figure

    make = new_figure(path)

    def draw(results: Sequence[Result]) -> None:
        best = best_by_name([result for result in results if result.name == "imagefolder"])
        bars = [*best, *(result for result in results if result.name != "imagefolder")]
        rates = [result.median for result in bars]
        figure, write = make(7, 0.8 + 0.5 * len(bars))
        axes = figure.subplots()
        drawn = axes.barh([f"{result.name}\n{result.setting}" for result in bars], rates)
        axes.bar_label(drawn, [f"{rate:,.0f}" for rate in rates], padding=3)
        axes.set_xlim(0, 1.15 * max(rates))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.invert_yaxis()
        axes.set_xlabel("images per second, median of the epochs")
        write()

    return draw


def _check_torchvision() -> None:
    try:
        import_torchvision()
    except ModuleNotFoundError as error:
        raise OptionError(
            "ImageFolder needs torchvision; pip install 'cinic-shards[bench]'"
        ) from error


def _pngs(folder: str, num_samples: Mapping[str, int]) -> list[str]:
    """Return the paths of a split's PNGs; each dataset must have as many samples."""
    pngs = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(".png")
    ]
    for dataset, count in num_samples.items():
        if len(pngs) != count:
            raise OptionError(
                f"{folder} holds {len(pngs):,} PNGs, {dataset} has {count:,} samples of that "
                "split; give the tree that the shards were packed from"
            )
    return pngs


def _read_files(paths: Iterable[str]) -> None:
    """Read files, so that the page cache holds them."""
    buffer = bytearray(2**20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
