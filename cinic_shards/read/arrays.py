"""Decode many images into one array."""

import numpy as np
from numpy.typing import NDArray

from cinic_shards.jobs import Progress
from cinic_shards.read.map_images import Images, map_images
from cinic_shards.read.split import SplitReader


def read_pixels(
    reader: SplitReader,
    rows: NDArray[np.int64],
    *,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> NDArray[np.uint8]:
    """Decode rows in several threads, each block once.

    Args:
        reader: reads the rows.
        rows: rows of the reader, in any order, shape (n,).
        workers: number of threads; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Returns:
        The images in the order of ``rows``, uint8, shape (n, H, W, 3).

    Raises:
        OptionError: ``workers`` is less than 1.
        FormatError: images are damaged, or have several sizes; names them.
        StoreError: the dataset cannot be read.
    """
    order = np.argsort(rows)
    rising = rows[order]
    out = np.empty((len(rows), *reader.image_shape), np.uint8)

    def keep(images: Images) -> None:
        out[order[np.searchsorted(rising, images.rows)]] = images.pixels

    map_images(reader, rising, keep, doing="decode", workers=workers, progress=progress)
    return out
