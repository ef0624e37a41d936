"""The encoding ``zstd``: blocks of compressed residuals of a pixel predictor."""

import numpy as np
import zstandard
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import kernels
from cinic_shards.codec.base import Encoding
from cinic_shards.codec.payloads import Payloads
from cinic_shards.codec.raw import npy_content

LEVEL = 1
"""Higher levels compress no better: the residuals hardly repeat (docs/performance.md)."""


class ZstdEncoding(Encoding):
    """A zstd frame that holds an npy file: residuals, uint8 (3, N, H, W)."""

    name = "zstd"
    suffix = "images.zst"

    def libraries(self) -> dict[str, str]:
        # The compressed bytes differ between versions.
        return {"libzstd": ".".join(map(str, zstandard.ZSTD_VERSION))}

    def least_bytes(self, image_shape: tuple[int, ...]) -> int:
        # The size is not known in advance; it may be half of the pixels' bytes or less.
        return int(np.prod(image_shape)) // 4

    def encode(self, images: NDArray[np.uint8]) -> bytes:
        num_images, height, width, _ = images.shape
        residuals = np.empty((3, num_images, height, width), np.uint8)
        kernels.predict_batch(images, residuals)
        content = fmt.npy_header("|u1", residuals.shape) + residuals.tobytes()
        return zstandard.ZstdCompressor(level=LEVEL).compress(content)

    def decode(self, payloads: Payloads, out: NDArray[np.uint8]) -> dict[int, str]:
        num_images, height, width, _ = out.shape
        shape = (3, num_images, height, width)
        content, problem = _decompress(payloads.memory(0), fmt.NPY_HEADER_BYTES + out.size)
        if not problem:
            content, problem = npy_content(content, shape)
        if problem:
            return dict.fromkeys(range(len(out)), problem)
        kernels.unpredict_batch(content, out)
        return {}

    def image_shape(self, payload: NDArray[np.uint8]) -> tuple[int, int, int] | None:
        try:
            with zstandard.ZstdDecompressor().stream_reader(payload.tobytes()) as reader:
                head = reader.read(fmt.NPY_HEADER_BYTES)
        except zstandard.ZstdError:
            return None
        shape = fmt.parse_npy_shape(head, "|u1", 4)
        return None if shape is None else (shape[2], shape[3], 3)


def _decompress(payload: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], str]:
    """Decompress a frame of ``size`` bytes.

    Returns:
        uint8, shape (size,); and what is wrong with the frame, or an empty string.
    """
    try:
        # Check before allocating: a small frame can claim any size.
        stated = zstandard.frame_content_size(payload.data)
        if stated != size:
            return payload, f"its zstd frame states {stated:,} bytes, expected {size:,}"
        content = zstandard.ZstdDecompressor().decompress(payload.data, allow_extra_data=False)
        return np.frombuffer(content, np.uint8), ""
    except zstandard.ZstdError as error:
        return payload, f"not a readable zstd frame: {error}"
