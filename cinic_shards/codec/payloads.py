"""Payloads by memory address, and their CRC-32."""

import ctypes
import ctypes.util
import warnings
import zlib
from dataclasses import dataclass
from functools import cache

import deflate
import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import kernels


@dataclass(frozen=True, slots=True)
class Payloads:
    """N payloads by memory address; nothing is copied."""

    addresses: NDArray[np.int64]
    """Address of each payload in this process's memory, shape (N,)."""
    lengths: NDArray[np.int64]
    """Size of each payload in bytes, shape (N,)."""
    owners: object
    """The objects that own the memory; kept alive so that the addresses stay valid."""

    def __len__(self) -> int:
        return len(self.addresses)

    def __getitem__(self, position: int) -> bytes:
        """Return a copy of one payload."""
        return ctypes.string_at(int(self.addresses[position]), int(self.lengths[position]))

    def memory(self, position: int) -> NDArray[np.uint8]:
        """Return one payload as a uint8 array without a copy; do not write to it."""
        pointer = ctypes.cast(int(self.addresses[position]), ctypes.POINTER(ctypes.c_uint8))
        return np.ctypeslib.as_array(pointer, (int(self.lengths[position]),))

    def take(self, positions: NDArray[np.int64]) -> "Payloads":
        """Return the payloads at these positions, in this order."""
        return Payloads(self.addresses[positions], self.lengths[positions], self.owners)

    @classmethod
    def in_buffer(
        cls, buffer: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> "Payloads":
        """Make payloads from ranges of one buffer.

        Args:
            buffer: uint8, one-dimensional, C-contiguous.
            offsets: offset of each payload in ``buffer``, shape (N,).
            lengths: size of each payload in bytes, shape (N,).

        Raises:
            ValueError: a payload is outside the buffer.
        """
        if len(offsets) and not (
            offsets.min() >= 0 and lengths.min() >= 0 and (offsets + lengths).max() <= len(buffer)
        ):
            raise ValueError(f"a payload is outside the buffer of {len(buffer)} bytes")
        return cls(buffer.ctypes.data + offsets, lengths, buffer)

    @classmethod
    def one(cls, payload: NDArray[np.uint8]) -> "Payloads":
        """Make one payload from a contiguous array."""
        return cls.in_buffer(payload.reshape(-1), np.zeros(1, np.int64), np.array([payload.size]))


def checksums(payloads: Payloads) -> NDArray[np.uint32]:
    """Compute the CRC-32 of each payload, shape (N,)."""
    functions = libdeflate()
    out = np.empty(len(payloads), np.uint32)
    if functions is not None:
        kernels.crc32_batch(functions[3], payloads.addresses, payloads.lengths, out)
    else:
        out[:] = [zlib.crc32(payloads[position]) for position in range(len(payloads))]
    return out


def checksum(memory: NDArray[np.uint8]) -> int:
    """Compute the CRC-32 of a contiguous array."""
    return int(checksums(Payloads.one(memory))[0])


def crc_problems(payloads: Payloads, stated: NDArray[np.uint32]) -> dict[int, str]:
    """Compare the CRC-32 of payloads with those of an index.

    Args:
        payloads: N payloads.
        stated: the CRC-32 values in the index, shape (N,).

    Returns:
        Position -> the difference, for each payload whose CRC-32 differs.
    """
    found = checksums(payloads)
    return {
        position: f"CRC-32 is {found[position]:08x}, the index says {stated[position]:08x}"
        for position in np.flatnonzero(found != stated).tolist()
    }


@cache
def libdeflate() -> tuple[int, int, int, int] | None:
    """Return the addresses of libdeflate's functions; None if no library exports them.

    Searches the package ``deflate``, then the system's library.

    Returns:
        Addresses of zlib_decompress, alloc_decompressor, free_decompressor and crc32.
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
        "no shared library exports libdeflate's functions: PNGs are decompressed one by one, which "
        "threads do not speed up; reinstall the package 'deflate' or install the system's "
        "libdeflate",
        stacklevel=2,
    )
    return None
