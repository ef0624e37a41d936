"""Gather a report's content: each image is read once to check it, and once to count it."""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.check.verify import Verification, verify
from cinic_shards.codec import kernels
from cinic_shards.errors import DecodeError
from cinic_shards.format import Manifest
from cinic_shards.jobs import Progress
from cinic_shards.options import integer, number_of_workers
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.map_images import Images, map_images
from cinic_shards.read.split import SplitReader
from cinic_shards.store import StoreLike
from cinic_shards.view.duplicates import Duplicates, duplicates_among
from cinic_shards.view.montage import some_of, stratified
from cinic_shards.view.report.sprites import Sheets, make_sheets, make_tile
from cinic_shards.view.stats import Histograms, ValueCounter

MAX_DUPLICATES_SHOWN = 12
"""Groups of duplicates shown."""
MAX_OF_A_GROUP = 4
"""Images shown of a group."""
MONTAGE_IMAGES = 27
"""Images of each class; a narrow window shows fewer."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a report."""

    location: str
    manifest: Manifest
    summary: dict[str, Any]
    """The result of ``Dataset.summary``."""
    columns: Columns
    """Columns of all samples."""
    verification: Verification
    is_quick: bool
    """True if the verification decoded no image."""
    unreadable: tuple[DecodeError, ...]
    """Damaged images, which are in no picture and no histogram."""
    histograms: Histograms
    duplicates: Duplicates
    shown_duplicates: tuple[tuple[int, ...], ...]
    """The rows of the images of each group that is shown."""
    sample: NDArray[np.int64]
    """Ascending rows of the images that the page shows, shape (n,)."""
    seed: int
    order: NDArray[np.int64]
    """The same rows in the random order in which the page shows them."""
    tile_of: dict[int, int]
    """Row -> number of its tile."""
    sheets: Sheets


def gather(
    path: StoreLike,
    *,
    sample: int,
    seed: int,
    quick: bool,
    workers: int | None,
    progress: Progress,
) -> Content:
    """Read a dataset for its report; see ``report.write_report``."""
    workers = number_of_workers(workers)
    sample, seed = integer("sample", sample, 1), integer("seed", seed)
    dataset = Dataset(path)
    reader = dataset.split(dataset.split_names)
    columns = reader.columns
    duplicates = duplicates_among(columns, location=str(dataset.store))
    verification = verify(dataset.store, quick=quick, workers=workers, progress=progress)

    chosen = stratified(columns, sample, seed)
    size = len(chosen)
    order = chosen[kernels.choose(size, size, "order of the report", seed)]
    groups = _groups_to_show(duplicates, columns)
    shown = dict.fromkeys(itertools.chain(order.tolist(), *groups))
    tile_of = {row: number for number, row in enumerate(shown)}
    histograms, unreadable, sheets = _read_images(reader, tile_of, workers, progress)
    return Content(
        location=str(dataset.store),
        manifest=dataset.manifest,
        summary=dataset.summary(),
        columns=columns,
        verification=verification,
        is_quick=quick,
        unreadable=tuple(unreadable),
        histograms=histograms,
        duplicates=duplicates,
        shown_duplicates=groups,
        sample=chosen,
        seed=seed,
        order=order,
        tile_of=tile_of,
        sheets=sheets,
    )


def _read_images(
    reader: SplitReader, tile_of: dict[int, int], workers: int, progress: Progress
) -> tuple[Histograms, list[DecodeError], Sheets]:
    """Decode every image, count its pixel values, and keep it if it has a tile."""
    tiles: list[Image.Image | None] = [None] * len(tile_of)
    reduced: list[int] = []
    counter = ValueCounter(reader)

    def read(images: Images) -> NDArray[np.int64]:
        for row, pixels in zip(images.rows.tolist(), images.pixels, strict=True):
            if row in tile_of:
                tiles[tile_of[row]], is_exact = make_tile(pixels)
                if not is_exact:
                    reduced.append(row)
        return counter.count(images)

    errors: list[DecodeError] = []
    counts = map_images(
        reader,
        np.arange(len(reader)),
        read,
        doing="read",
        workers=workers,
        errors=errors,
        progress=progress,
    )
    progress("draw", 0, len(tiles))
    sheets = make_sheets(tiles, is_exact=not reduced, workers=workers)
    progress("draw", len(tiles), len(tiles))
    return counter.by_origin(counts), errors, sheets


def _groups_to_show(duplicates: Duplicates, columns: Columns) -> tuple[tuple[int, ...], ...]:
    """Choose groups to show: first those in several splits or classes, which matter most."""

    def rank(group: tuple[str, ...]) -> tuple[int, int]:
        splits, classes = zip(*(key.split("/")[:2] for key in group), strict=True)
        return -len(set(splits)), -len(set(classes))

    groups = sorted(duplicates.groups, key=rank)[:MAX_DUPLICATES_SHOWN]
    shown = {key for group in groups for key in group[:MAX_OF_A_GROUP]}
    row_of = {key: row for row, key in enumerate(columns.keys.tolist()) if key in shown}
    return tuple(tuple(row_of[key] for key in group[:MAX_OF_A_GROUP]) for group in groups)


def montage_rows(content: Content, origins: tuple[str, ...] | None) -> dict[str, list[int]]:
    """Return class -> some of its rows in the sample, only of these origins; no empty class."""
    columns, rows = content.columns, content.sample
    if origins is not None:
        rows = rows[np.isin(columns.origin[rows], origins)]
    found = {}
    for label, name in enumerate(content.manifest.classes):
        of_class = rows[columns.labels[rows] == label]
        if len(of_class):
            found[name] = some_of(of_class, MONTAGE_IMAGES, name, content.seed).tolist()
    return found


def cells(columns: Columns) -> Counter[tuple[str, int, str, str]]:
    """Count images by (split, label, origin, synset); all counts on the page are sums of these."""
    used = (columns.split, columns.labels, columns.origin, columns.synset)
    return Counter(zip(*(column.tolist() for column in used), strict=True))
