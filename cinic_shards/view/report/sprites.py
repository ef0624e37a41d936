"""Sprite sheets: many small images in few ``data:`` URIs."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, features

from cinic_shards.view.montage import fit

COLUMNS = 32
"""Tiles in a row of a sheet."""
TILES = 512
"""Tiles in a sheet, many because each file has a header."""
MAX_EXACT_SIDE = 32
"""Largest side, in pixels, of images that are kept losslessly."""
REDUCED_SIDE = 64
"""Side to which larger images are reduced, with lossy compression: the page must stay small."""
_REDUCED_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Sheets:
    """N tiles in sheets of ``TILES`` each, in the order of their numbers."""

    side: int
    """Side of a tile's square in pixels; smaller tiles are centred in it."""
    is_exact: bool
    """True if tiles have exactly the pixels of their images."""
    uris: tuple[str, ...]
    """``data:image/...;base64,...`` of each sheet."""
    num_rows: tuple[int, ...]
    """Rows of tiles in each sheet."""


def make_tile(pixels: "np.typing.NDArray[np.uint8]") -> tuple[Image.Image, bool]:
    """Return the tile of an image, uint8 (H, W, 3), and True if it has exactly its pixels."""
    is_exact = max(pixels.shape[:2]) <= MAX_EXACT_SIDE
    return fit(pixels, MAX_EXACT_SIDE if is_exact else REDUCED_SIDE), is_exact


def make_sheets(tiles: Sequence[Image.Image | None], *, is_exact: bool, workers: int) -> Sheets:
    """Make the sheets of these tiles.

    Args:
        tiles: RGB images; None for a damaged one, which is drawn as a red cross.
        is_exact: True for lossless compression.
        workers: number of threads that compress.
    """
    side = max((max(tile.size) for tile in tiles if tile), default=MAX_EXACT_SIDE)
    cross = _cross(side)
    drawn = [cross if tile is None else tile for tile in tiles]
    groups = [drawn[start : start + TILES] for start in range(0, len(drawn), TILES)]
    with ThreadPoolExecutor(workers) as threads:
        uris = list(threads.map(lambda group: _sheet(group, side, is_exact), groups))
    num_rows = tuple(-(-len(group) // COLUMNS) for group in groups)
    return Sheets(side, is_exact, tuple(uris), num_rows)


def _cross(side: int) -> Image.Image:
    """Draw the tile that stands for a damaged image."""
    tile = Image.new("RGB", (side, side), (255, 236, 232))
    pen = ImageDraw.Draw(tile)
    width, end, red = max(1, side // 12), side - 1, (180, 30, 20)
    pen.rectangle((0, 0, end, end), outline=red, width=width)
    pen.line((0, 0, end, end), fill=red, width=width)
    pen.line((0, end, end, 0), fill=red, width=width)
    return tile


def _sheet(tiles: Sequence[Image.Image], side: int, is_exact: bool) -> str:
    # Around a tile that is smaller than its square, the page shows through.
    mode = "RGB" if all(tile.size == (side, side) for tile in tiles) else "RGBA"
    sheet = Image.new(mode, (COLUMNS * side, -(-len(tiles) // COLUMNS) * side))
    for number, tile in enumerate(tiles):
        left, top = number % COLUMNS * side, number // COLUMNS * side
        sheet.paste(tile, (left + (side - tile.width) // 2, top + (side - tile.height) // 2))
    file = io.BytesIO()
    # What browsers show: WebP, or PNG if this Pillow cannot write it.
    file_format = "WEBP" if features.check("webp") else "PNG"
    if file_format == "WEBP":
        sheet.save(file, file_format, lossless=is_exact, quality=_REDUCED_QUALITY, method=4)
    else:
        sheet.save(file, file_format, optimize=True)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
