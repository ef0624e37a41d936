"""The encoding ``png``: each image's file, byte for byte; decoded in batches."""

import ctypes
import io
import struct
import zlib

import deflate
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.codec import kernels
from cinic_shards.codec.base import Encoding
from cinic_shards.codec.payloads import Payloads, libdeflate


class PngEncoding(Encoding):
    """One PNG per image."""

    name = "png"
    suffix = "png"
    has_blocks = False
    sidecars = ("cls", "json")
    default_sidecars = ("cls",)

    def encode(self, images: NDArray[np.uint8]) -> bytes:
        (image,) = images
        return encode_png(image)

    def decode(self, payloads: Payloads, out: NDArray[np.uint8]) -> dict[int, str]:
        return decode_png(payloads, out)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image, uint8 (H, W, 3), as a PNG; the bytes depend on Pillow's version."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def decode_png(payloads: Payloads, out: NDArray[np.uint8]) -> dict[int, str]:
    """Decode N PNG files into ``out``, as Pillow's ``convert("RGB")`` would.

    Args:
        payloads: N encoded files.
        out: uint8, shape (N, H, W, 3), RGB, C-contiguous; overwritten in payload order.

    Returns:
        Position -> why this file is not a PNG of H x W pixels; all other files are decoded.
    """
    done = np.zeros(len(payloads), np.bool_)
    functions = libdeflate()
    if functions is not None:
        kernels.decode_png_batch(*functions[:3], payloads.addresses, payloads.lengths, out, done)
    else:
        _decode_stepwise(payloads, out, done)
    problems = {}
    for position in np.flatnonzero(~done).tolist():
        if problem := _decode_with_pillow(payloads[position], out[position]):
            problems[position] = problem
    return problems


def _decode_stepwise(payloads: Payloads, out: NDArray[np.uint8], done: NDArray[np.bool_]) -> None:
    """Decode like ``kernels.decode_png_batch``, but decompress in a Python loop."""
    num_images, height, width, _ = out.shape
    data, data_lengths = np.empty(num_images, np.int64), np.empty(num_images, np.int64)
    joined = np.empty(int(payloads.lengths.sum()), np.uint8)
    starts = np.cumsum(payloads.lengths) - payloads.lengths
    kernels.find_png_data_batch(
        payloads.addresses, payloads.lengths, height, width, joined, starts, data, data_lengths
    )
    size = height * (1 + 3 * width)
    filtered = np.empty((num_images, size), np.uint8)
    for position in np.flatnonzero(data_lengths).tolist():
        compressed = ctypes.string_at(int(data[position]), int(data_lengths[position]))
        try:
            pixels = deflate.zlib_decompress(compressed, size)
        except deflate.DeflateError:
            continue
        if len(pixels) == size:
            filtered[position] = np.frombuffer(pixels, np.uint8)
            done[position] = True
    kernels.unfilter_batch(filtered, out, done)


_TILE = 512
"""Side of a tile in pixels."""


def _size_problem(image: Image.Image, height: int, width: int) -> str:
    if image.size == (width, height):
        return ""
    found = f"{image.height}x{image.width} (height x width)"
    return f"the image is {found}, expected {height}x{width}"


def _decode_with_pillow(data: bytes, out: NDArray[np.uint8]) -> str:
    """Decode one PNG of any colour type; return what is wrong with it, or an empty string."""
    height, width, _ = out.shape
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            # Check before Pillow allocates the pixels, and after: a second header may change it.
            if problem := _size_problem(image, height, width):
                return problem
            image.load()
            if problem := _size_problem(image, height, width):
                return problem
            # RGB has no transparency: Pillow would warn about it, or fail if it is invalid.
            image.info.pop("transparency", None)
            # Tile by tile: with a large image, each step would copy all of it.
            for top in range(0, height, _TILE):
                for left in range(0, width, _TILE):
                    bottom, right = min(top + _TILE, height), min(left + _TILE, width)
                    tile = image.crop((left, top, right, bottom)).convert("RGB")
                    out[top:bottom, left:right] = np.asarray(tile)
    except (
        OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError,
        struct.error, zlib.error, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        return f"not a readable PNG: {error}"
    return ""
