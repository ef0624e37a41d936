"""The encoding ``raw``: blocks of uncompressed pixels, which can be mapped."""

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec.base import Encoding
from cinic_shards.codec.payloads import Payloads


class RawEncoding(Encoding):
    """An npy file of N images, uint8 (N, H, W, 3)."""

    name = "raw"
    suffix = "images.npy"
    pixels_offset = fmt.NPY_HEADER_BYTES

    def least_bytes(self, image_shape: tuple[int, ...]) -> int:
        return int(np.prod(image_shape))

    def encode(self, images: NDArray[np.uint8]) -> bytes:
        return fmt.npy_header("|u1", images.shape) + images.tobytes()

    def decode(self, payloads: Payloads, out: NDArray[np.uint8]) -> dict[int, str]:
        pixels, problem = npy_content(payloads.memory(0), out.shape)
        if problem:
            return dict.fromkeys(range(len(out)), problem)
        out.reshape(-1)[:] = pixels
        return {}

    def image_shape(self, payload: NDArray[np.uint8]) -> tuple[int, int, int] | None:
        shape = fmt.parse_npy_shape(payload[: fmt.NPY_HEADER_BYTES].tobytes(), "|u1", 4)
        return None if shape is None else (shape[1], shape[2], 3)


def npy_content(data: NDArray[np.uint8], shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], str]:
    """Return the values of an npy file of uint8 that must have the given shape.

    Args:
        data: the file, uint8, one-dimensional.
        shape: the expected shape.

    Returns:
        uint8, one-dimensional; and what is wrong with the file, or an empty string.
    """
    header = fmt.npy_header("|u1", shape)
    size = len(header) + int(np.prod(shape))
    if len(data) != size:
        return data, f"{len(data):,} bytes, expected {size:,}"
    if data[: len(header)].tobytes() != header:
        return data, f"it begins with {data[:48].tobytes()!r}, expected the npy header of {shape}"
    return data[len(header) :], ""
