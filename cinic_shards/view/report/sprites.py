"""Many small images in few files: sprite sheets, as ``data:`` URIs."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

from cinic_shards.view.montage import fit

COLUMNS = 32
"""Tiles in a sheet's row."""
TILES = 512
"""Tiles in a sheet: with many in one, each costs no header of its own."""
MAX_EXACT_SIDE = 32
"""Images that are no larger are kept to the pixel."""
REDUCED_SIDE = 48
"""Larger ones are reduced to this, and compressed with a loss: the page must stay small."""
_REDUCED_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Sheets:
    """N tiles in sheets of ``TILES``; a tile's number gives its place."""

    side: int
    """Of the square that each tile has, in pixels; smaller ones are in its middle."""
    is_exact: bool
    """Whether tiles have their image's pixels."""
    uris: tuple[str, ...]
    """``data:image/...;base64,...`` of each sheet."""
    num_rows: tuple[int, ...]
    """Rows of tiles in each sheet."""


def make_tile(pixels: "np.typing.NDArray[np.uint8]") -> tuple[Image.Image, bool]:
    """The tile of an image, uint8 (H, W, 3), and whether it is the image to the pixel."""
    is_exact = max(pixels.shape[:2]) <= MAX_EXACT_SIDE
    return fit(pixels, MAX_EXACT_SIDE if is_exact else REDUCED_SIDE), is_exact


def make_sheets(tiles: Sequence[Image.Image], *, is_exact: bool, workers: int) -> Sheets:
    """Sheets of these tiles.

    Args:
        tiles: in RGB.
        is_exact: whether to compress without a loss.
        workers: threads that compress.
    """
    side = max((max(tile.size) for tile in tiles), default=1)
    groups = [tiles[start : start + TILES] for start in range(0, len(tiles), TILES)]
    with ThreadPoolExecutor(workers) as threads:
        uris = list(threads.map(lambda group: _sheet(group, side, is_exact), groups))
    num_rows = tuple(-(-len(group) // COLUMNS) for group in groups)
    return Sheets(side, is_exact, tuple(uris), num_rows)


def _sheet(tiles: Sequence[Image.Image], side: int, is_exact: bool) -> str:
    # Where a tile is smaller than its place, the page shows through.
    mode = "RGB" if all(tile.size == (side, side) for tile in tiles) else "RGBA"
    sheet = Image.new(mode, (COLUMNS * side, -(-len(tiles) // COLUMNS) * side))
    for number, tile in enumerate(tiles):
        left, top = number % COLUMNS * side, number // COLUMNS * side
        sheet.paste(tile, (left + (side - tile.width) // 2, top + (side - tile.height) // 2))
    file = io.BytesIO()
    if not features.check("webp"):
        kind = "png"
        sheet.save(file, "PNG", optimize=True)
    else:
        kind = "webp"
        sheet.save(file, "WEBP", lossless=is_exact, quality=_REDUCED_QUALITY, method=4)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
