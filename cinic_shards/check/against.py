"""Compare a dataset with a tree: both must hold exactly the same images."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.check.faults import Fault, Location
from cinic_shards.codec import Payloads, decode_png
from cinic_shards.errors import few
from cinic_shards.format import ShardInfo
from cinic_shards.options import temporary_folder
from cinic_shards.tree import Source, find_source
from cinic_shards.tree.records import ImageFiles, Tree


def open_tree(
    against: str | os.PathLike[str] | Source, executor: Executor, split_name: str | None = None
) -> AbstractContextManager[Tree]:
    """Open a tree to compare with; it is closed when the context ends."""
    return find_source(against, split_name).open(
        executor=executor,
        spool_folder=Path(temporary_folder()),
        progress=lambda num_images: None,
    )


def unpacked_images(
    tree: Tree, packed: set[str], unreadable: Mapping[str, Sequence[ShardInfo]]
) -> Iterator[Fault]:
    """Yield a fault for each folder of a tree with images that are not in the dataset.

    Args:
        tree: the tree.
        packed: keys of the samples in all shards that can be read.
        unreadable: split -> its shards that cannot be read. The missing images may be in them, so
            such a split has one fault, with the number of its missing images.
    """
    root = tree.root.resolve()
    for split, records in tree.splits.items():
        files = zip(records.files, records.keys, strict=True)
        missing = [file for file, key in files if key not in packed]
        if shards := unreadable.get(split):
            if missing:
                names = few([shard.name for shard in shards])
                num_samples = sum(shard.num_samples for shard in shards)
                problem = (
                    f"{len(missing):,} images in {root} could not be compared, because {names} "
                    f"({num_samples:,} samples) cannot be read"
                )
                yield Fault(Location(f"{split}/"), "tree", problem)
        else:
            yield from _unpacked_of_split(root, missing)


def _unpacked_of_split(root: Path, missing: list[str]) -> Iterator[Fault]:
    folders: dict[str, list[str]] = {}
    for file in missing:
        folders.setdefault(file.rpartition("/")[0], []).append(file)
    for folder, files in folders.items():
        problem = f"in {root}, not in the dataset, expected in both; pack the tree again"
        if len(files) == 1:
            yield Fault(Location(files[0]), "tree", problem)
        else:
            names = few([file.rpartition("/")[2] for file in files])
            yield Fault(
                Location(f"{folder}/"), "tree", f"{len(files):,} images ({names}) {problem}"
            )


def tree_problem(
    images: ImageFiles, key: str, sample: Any, compare: Callable[[Any, bytes, str], str]
) -> str:
    """Describe how a sample differs from its file in a tree; empty if it does not.

    Args:
        images: the tree's files of one split.
        key: the sample's key.
        sample: its PNG or its pixels, whichever ``compare`` takes.
        compare: ``bytes_problem`` or ``pixels_problem``.
    """
    path = f"{images}/{key}.png"
    try:
        return compare(sample, images.read(key), path)
    except OSError as error:
        return f"{path}: {error.strerror}"


def bytes_problem(png: bytes, file: bytes, path: str) -> str:
    """Name the first byte in which a PNG and a file differ; empty if they do not."""
    if png == file:
        return ""
    shorter = min(len(file), len(png))
    at = next((at for at in range(shorter) if file[at] != png[at]), shorter)
    return f"its {len(png)} bytes differ from the {len(file)} bytes of {path} from byte {at} on"


def pixels_problem(image: NDArray[np.uint8], file: bytes, path: str) -> str:
    """Compare an image, uint8 (H, W, 3), with the pixels of a PNG; empty if they are equal."""
    out = np.empty((1, *image.shape), np.uint8)
    if problems := decode_png(Payloads.one(np.frombuffer(file, np.uint8)), out):
        return f"{path}: {problems[0]}"
    return "" if np.array_equal(out[0], image) else f"its pixels differ from those of {path}"
