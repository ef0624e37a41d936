"""Payloads by address, and their CRC-32: what every encoding works on."""

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

    @classmethod
    def one(cls, payload: NDArray[np.uint8]) -> "Payloads":
        """One payload: contiguous memory."""
        return cls.in_buffer(payload.reshape(-1), np.zeros(1, np.int64), np.array([payload.size]))


def checksums(payloads: Payloads) -> NDArray[np.uint32]:
    """The CRC-32 of each payload, shape (N,)."""
    functions = libdeflate()
    out = np.empty(len(payloads), np.uint32)
    if functions is not None:
        kernels.crc32_batch(functions[3], payloads.addresses, payloads.lengths, out)
    else:
        out[:] = [zlib.crc32(payloads[position]) for position in range(len(payloads))]
    return out


def checksum(memory: NDArray[np.uint8]) -> int:
    """The CRC-32 of contiguous memory."""
    return int(checksums(Payloads.one(memory))[0])


def crc_problems(payloads: Payloads, stated: NDArray[np.uint32]) -> dict[int, str]:
    """What is wrong with the payloads whose CRC-32 is not the stated one, by position.

    Args:
        payloads: N payloads.
        stated: what the index says, shape (N,).
    """
    found = checksums(payloads)
    return {
        position: f"CRC-32 is {found[position]:08x}, the index says {stated[position]:08x}"
        for position in np.flatnonzero(found != stated).tolist()
    }


@cache
def libdeflate() -> tuple[int, int, int, int] | None:
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
