"""The encoding ``zstd``: blocks of what a predictor leaves of the pixels, compressed."""

import numpy as np
import zstandard
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import kernels
from cinic_shards.codec.base import Encoding
from cinic_shards.codec.payloads import Payloads
from cinic_shards.codec.raw import npy_content

LEVEL = 1
"""Higher ones are no smaller: what the predictor leaves hardly repeats (docs/performance.md)."""


class ZstdEncoding(Encoding):
    """A zstd frame that holds an npy file: uint8 (3, N, H, W), what the predictor leaves."""

    name = "zstd"
    suffix = "images.zst"

    def libraries(self) -> dict[str, str]:
        # Its compressed bytes differ between versions.
        return {"libzstd": ".".join(map(str, zstandard.ZSTD_VERSION))}

    def least_bytes(self, image_shape: tuple[int, ...]) -> int:
        # It may be no larger than half of the pixels, and is not known before.
        return int(np.prod(image_shape)) // 4

    def encode(self, images: NDArray[np.uint8]) -> bytes:
        num_images, height, width, _ = images.shape
        left_over = np.empty((3, num_images, height, width), np.uint8)
        kernels.predict_batch(images, left_over)
        content = fmt.npy_header("|u1", left_over.shape) + left_over.tobytes()
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
    """The ``size`` bytes that a frame must hold, and what is wrong with it."""
    try:
        # Before memory is taken: a few bytes can say that they hold any number of them.
        stated = zstandard.frame_content_size(payload.data)
        if stated != size:
            return payload, f"its zstd frame states {stated:,} bytes, expected {size:,}"
        content = zstandard.ZstdDecompressor().decompress(payload.data, allow_extra_data=False)
        return np.frombuffer(content, np.uint8), ""
    except zstandard.ZstdError as error:
        return payload, f"not a readable zstd frame: {error}"
