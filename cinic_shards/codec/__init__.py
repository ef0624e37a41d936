"""Payload bytes -> pixels, a batch or a block at a time; and back."""

import ctypes
import ctypes.util
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache

import deflate
import numpy as np
import zstandard
from numpy.typing import NDArray
from PIL import Image

import cinic_shards.format as fmt
from cinic_shards.codec import kernels
from cinic_shards.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Payloads:
    """N payloads by address; nothing is copied."""

    addresses: NDArray[np.int64]
    """Where each payload begins in this process's memory, shape (N,)."""
    lengths: NDArray[np.int64]
    """Each payload's bytes, shape (N,)."""
    owners: object
    """Whatever must stay alive for the addresses to be valid."""

    def __len__(self) -> int:
        return len(self.addresses)

    def __getitem__(self, position: int) -> bytes:
        """A copy of one payload."""
        return ctypes.string_at(int(self.addresses[position]), int(self.lengths[position]))

    def memory(self, position: int) -> NDArray[np.uint8]:
        """One payload where it lies, to be read only."""
        pointer = ctypes.cast(int(self.addresses[position]), ctypes.POINTER(ctypes.c_uint8))
        return np.ctypeslib.as_array(pointer, (int(self.lengths[position]),))

    def take(self, positions: NDArray[np.int64]) -> "Payloads":
        """The payloads at these positions, in this order."""
        return Payloads(self.addresses[positions], self.lengths[positions], self.owners)

    @classmethod
    def in_buffer(
        cls, buffer: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> "Payloads":
        """Payloads at these places of one buffer.

        Raises:
            ValueError: a payload lies outside the buffer.
        """
        if len(offsets) and not (
            offsets.min() >= 0 and lengths.min() >= 0 and (offsets + lengths).max() <= len(buffer)
        ):
            raise ValueError(f"a payload lies outside the buffer of {len(buffer)} bytes")
        return cls(buffer.ctypes.data + offsets, lengths, buffer)


ZSTD_LEVEL = 1
"""Higher ones are no smaller: what the predictor leaves hardly repeats (docs/performance.md)."""


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """One image, uint8 (H, W, 3), as a PNG; the bytes depend on Pillow's version."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def encode_block(images: NDArray[np.uint8], encoding: str) -> bytes:
    """A block's payload.

    Args:
        images: uint8, shape (N, H, W, 3), C-contiguous.
        encoding: ``raw`` or ``zstd``.
    """
    num_images, height, width, _ = images.shape
    if encoding == "raw":
        return fmt.npy_header("|u1", images.shape) + images.tobytes()
    left_over = np.empty((3, num_images, height, width), np.uint8)
    kernels.predict_batch(images, left_over)
    content = fmt.npy_header("|u1", left_over.shape) + left_over.tobytes()
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(content)


def decode_block(payload: NDArray[np.uint8], encoding: str, out: NDArray[np.uint8]) -> str:
    """Decode a block into ``out``.

    Args:
        payload: its bytes.
        encoding: ``raw`` or ``zstd``.
        out: uint8, shape (N, H, W, 3), C-contiguous; overwritten.

    Returns:
        What is wrong with the payload, and then what ``out`` holds means nothing; or an empty text.
    """
    num_images, height, width, _ = out.shape
    shape = out.shape if encoding == "raw" else (3, num_images, height, width)
    header = fmt.npy_header("|u1", shape)
    size = len(header) + out.size
    if encoding == "zstd":
        try:
            # Before memory is taken: a few bytes can say that they hold any number of them.
            stated = zstandard.frame_content_size(payload.data)
            if stated != size:
                return f"its zstd frame states {stated:,} bytes, expected {size:,}"
            content = zstandard.ZstdDecompressor().decompress(payload.data, allow_extra_data=False)
            payload = np.frombuffer(content, np.uint8)
        except zstandard.ZstdError as error:
            return f"not a readable zstd frame: {error}"
    if len(payload) != size:
        return f"{len(payload):,} bytes, expected {size:,}"
    if payload[: len(header)].tobytes() != header:
        return f"it begins with {payload[:48].tobytes()!r}, expected the npy header of {shape}"
    pixels = payload[len(header) :]
    if encoding == "raw":
        out.reshape(-1)[:] = pixels
    else:
        kernels.unpredict_batch(pixels, out)
    return ""


def decode_png(
    payloads: Payloads, out: NDArray[np.uint8], errors: list[DecodeError] | None = None
) -> None:
    """Decode N PNG files into ``out``, as Pillow's ``convert("RGB")`` would.

    Args:
        payloads: N encoded files.
        out: uint8, shape (N, H, W, 3), RGB, C-contiguous; overwritten in payload order.
        errors: where given, errors are added to it and not raised, and the other payloads decoded.

    Raises:
        DecodeError: a payload is not a PNG of H x W; names its position and why.
    """
    done = np.zeros(len(payloads), np.bool_)
    functions = _libdeflate()
    if functions is not None:
        kernels.decode_png_batch(*functions[:3], payloads.addresses, payloads.lengths, out, done)
    else:
        _decode_png_stepwise(payloads, out, done)
    for position in np.flatnonzero(~done).tolist():
        try:
            _decode_with_pillow(payloads[position], position, out[position])
        except DecodeError as error:
            if errors is None:
                raise
            errors.append(error)


def checksums(payloads: Payloads) -> NDArray[np.uint32]:
    """The CRC-32 of each payload, shape (N,)."""
    functions = _libdeflate()
    out = np.empty(len(payloads), np.uint32)
    if functions is not None:
        kernels.crc32_batch(functions[3], payloads.addresses, payloads.lengths, out)
    else:
        out[:] = [zlib.crc32(payloads[position]) for position in range(len(payloads))]
    return out


def checksum(memory: NDArray[np.uint8]) -> int:
    """The CRC-32 of contiguous memory."""
    size = np.array([memory.size])
    return int(checksums(Payloads.in_buffer(memory.reshape(-1), np.zeros(1, np.int64), size))[0])


@cache
def _libdeflate() -> tuple[int, int, int, int] | None:
    """Addresses of libdeflate's inflate, allocate, release and CRC-32; None where none shows them.

    They are found in the library that the package ``deflate`` brings, or in the system's.
    """
    names = "zlib_decompress", "alloc_decompressor", "free_decompressor", "crc32"
    for path in (deflate._deflate.__file__, ctypes.util.find_library("deflate")):
        try:
            library = ctypes.CDLL(path) if path else None
            found = [getattr(library, f"libdeflate_{name}") for name in names]
        except (OSError, AttributeError):
            continue
        inflate, allocate, release, crc32 = (
            ctypes.cast(function, ctypes.c_void_p).value or 0 for function in found
        )
        return inflate, allocate, release, crc32
    warnings.warn(
        "no shared library offers libdeflate's functions: PNGs are inflated one by one, which "
        "threads do not speed up; reinstall the package 'deflate' or install the system's "
        "libdeflate",
        stacklevel=2,
    )
    return None


def _decode_png_stepwise(
    payloads: Payloads, out: NDArray[np.uint8], done: NDArray[np.bool_]
) -> None:
    """``kernels.decode_png_batch`` where no kernel can call inflate: a Python loop does."""
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
"""Pixels a side."""


def _check_size(image: Image.Image, position: int, height: int, width: int) -> None:
    if image.size != (width, height):
        found = f"{image.height}x{image.width} (height x width)"
        raise DecodeError(position, f"the image is {found}, expected {height}x{width}")


def _decode_with_pillow(data: bytes, position: int, out: NDArray[np.uint8]) -> None:
    """Decode one file of any colour type, or say what is wrong with it."""
    height, width, _ = out.shape
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            _check_size(image, position, height, width)  # before memory is taken for the pixels
            image.load()
            _check_size(image, position, height, width)  # a second header may have changed it
            # RGB has none: Pillow would warn of it, or fail to convert one that cannot be.
            image.info.pop("transparency", None)
            # Tile by tile: of a large image every step would make another copy.
            for top in range(0, height, _TILE):
                for left in range(0, width, _TILE):
                    bottom, right = min(top + _TILE, height), min(left + _TILE, width)
                    tile = image.crop((left, top, right, bottom)).convert("RGB")
                    out[top:bottom, left:right] = np.asarray(tile)
    except (
        OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError,
        struct.error, zlib.error, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise DecodeError(position, f"not a readable PNG: {error}") from error
