"""Montages: random samples of a dataset, side by side in one picture."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cinic_shards.codec import kernels
from cinic_shards.errors import OptionError
from cinic_shards.jobs import Progress
from cinic_shards.options import checked, integer
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.map_images import Images, map_images
from cinic_shards.read.selection import select
from cinic_shards.read.subset import Subset
from cinic_shards.store import StoreLike, store_of_file

_CELL_PIXELS = 64
"""Largest side of an image in a montage; larger images are reduced, smaller ones enlarged."""
_FONT = ImageFont.load_default(15)
_GAP = 4
_MAX_SIDE = 2**14
"""Largest side of a montage in pixels: many viewers cannot open larger pictures."""
_MIN_ROWS = 20
"""Fewer classes are always in one column."""
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


@checked
def show(
    path: StoreLike,
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
    per_class: int = 16,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> int:
    """Write a montage: a PNG with a row of random samples for each class.

    Small images are enlarged by an integer factor without blur. More than 20 classes may take
    several columns.

    Args:
        path: the dataset's folder, URL or open store.
        out: the PNG file; an existing one is replaced.
        split: show only this split, or several as in ``train+valid``; by default all.
        classes: show only these classes; by default all.
        origins: show only these origins, by the names of ``provenance.origins_named``; by default
            all.
        per_class: samples per row, or all of a class that has fewer.
        seed: seed of the random choice.
        workers: number of threads; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Returns:
        The number of samples in the montage.

    Raises:
        OptionError: the dataset does not have a split or class, an origin is unknown, no sample is
            left, or the montage would be too large.
        StoreError, FormatError: the dataset cannot be read, or is damaged.
        OutputError: ``out`` cannot be written.
    """
    per_class, seed = integer("per_class", per_class, 1), integer("seed", seed)
    out = Path(out)
    store = store_of_file(out)
    dataset = Dataset(path)
    reader = dataset.split(dataset.split_names if split is None else split)
    selection = select(dataset, reader, Subset(classes=classes, origin=origins))
    candidates = selection.rows_at(np.arange(len(selection)))
    labels = reader.labels[candidates]
    names = dataset.manifest.classes
    shown = {
        names[label]: some_of(candidates[labels == label], per_class, names[label], seed)
        for label in np.unique(labels).tolist()
    }
    longest = max(map(len, shown.values()))
    if max(_Layout(list(shown), longest, _CELL_PIXELS).size) > _MAX_SIDE:
        raise OptionError(
            f"{len(shown):,} rows of up to {longest:,} images would be more than {_MAX_SIDE:,} "
            "pixels high or wide; choose fewer classes, or fewer images per class"
        )
    rows = np.sort(np.concatenate(list(shown.values())))
    tiles: dict[int, Image.Image] = {}

    def keep(images: Images) -> None:
        for row, pixels in zip(images.rows.tolist(), images.pixels, strict=True):
            tiles[row] = fit(pixels, _CELL_PIXELS)

    map_images(reader, rows, keep, doing="show", workers=workers, progress=progress)
    picture = draw({name: [tiles[row] for row in of.tolist()] for name, of in shown.items()})
    with store.create(out.name) as file:
        picture.save(file, "PNG")
    return len(rows)


def some_of(rows: NDArray[np.int64], count: int, purpose: str, seed: int) -> NDArray[np.int64]:
    """Choose ``count`` of these rows at random, or all if there are fewer, int64 (n,).

    With the same purpose and seed, a larger choice begins with a smaller one.
    """
    return rows[kernels.choose(min(count, len(rows)), len(rows), f"montage of {purpose}", seed)]


def stratified(columns: Columns, count: int, seed: int) -> NDArray[np.int64]:
    """Choose about ``count`` rows, the same share of each class of each split and origin.

    Shares are rounded, and each stratum has at least one image, so the number may differ from
    ``count``.

    Returns:
        Ascending rows, shape (n,).
    """
    strata: dict[tuple[str, int, str], list[int]] = {}
    keys = zip(
        columns.split.tolist(), columns.labels.tolist(), columns.origin.tolist(), strict=True
    )
    for row, key in enumerate(keys):
        strata.setdefault(key, []).append(row)
    chosen = []
    for (split, label, origin), of in sorted(strata.items()):
        share = max(1, round(len(of) * min(1.0, count / len(columns))))
        purpose = f"sample of {split}, label {label}, {origin}"
        chosen.append(np.array(of)[kernels.choose(min(share, len(of)), len(of), purpose, seed)])
    return np.sort(np.concatenate(chosen))


def fit(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """Return an image, uint8 (H, W, 3), reduced if a side is longer than ``side`` pixels."""
    image = Image.fromarray(pixels)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    return image


class _Layout:
    """Positions in a montage, in pixels."""

    def __init__(self, names: Sequence[str], longest: int, cell: int) -> None:
        self.label_width = 4 * _GAP + int(max(map(_FONT.getlength, map(_on_one_line, names))) + 1)
        self.step = cell + _GAP
        self.column_width = self.label_width + longest * self.step
        # One long column would be a thin strip.
        columns, self.num_rows = 1, len(names)
        while self.num_rows > _MIN_ROWS and self.num_rows * self.step > columns * self.column_width:
            columns += 1
            self.num_rows = -(-len(names) // columns)
        self.size = columns * self.column_width, self.num_rows * self.step + _GAP

    def corner(self, position: int) -> tuple[int, int]:
        """Return the left and top of a class's row."""
        column, row = divmod(position, self.num_rows)
        return column * self.column_width, _GAP + row * self.step


def draw(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """Draw a picture with a row of images for each name; small images are enlarged without blur."""
    largest = max(max(image.size) for images in rows.values() for image in images)
    zoom = max(1, _CELL_PIXELS // largest)
    cell = largest * zoom
    layout = _Layout(list(rows), max(map(len, rows.values())), cell)
    picture = Image.new("RGB", layout.size, _PAPER)
    pen = ImageDraw.Draw(picture)
    for position, (name, images) in enumerate(rows.items()):
        start, top = layout.corner(position)
        label = start + 2 * _GAP, top + cell // 2
        pen.text(label, _on_one_line(name), fill=_INK, font=_FONT, anchor="lm")
        for x, image in enumerate(images):
            scaled = image.resize(
                (image.width * zoom, image.height * zoom), Image.Resampling.NEAREST
            )
            left = start + layout.label_width + x * layout.step
            picture.paste(
                scaled, (left + (cell - scaled.width) // 2, top + (cell - scaled.height) // 2)
            )
    return picture


def _on_one_line(name: str) -> str:
    """Return a class name on one line of at most 30 letters: names are untrusted."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return text if len(text) <= 30 else f"{text[:29]}…"
