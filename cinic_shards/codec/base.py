"""The interface of an encoding: everything that differs between encodings is a member of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec.payloads import Payloads


class Encoding(ABC):
    """Encodes images as a shard's payloads, and decodes them.

    A payload is the file of one image, or a block of images of one size.
    """

    name: ClassVar[str]
    """Name in manifests, indexes and options."""
    suffix: ClassVar[str]
    """Suffix of the tar members that are payloads."""
    has_blocks: ClassVar[bool] = True
    """True if a payload holds a block; then all images of a dataset have the same size."""
    sidecars: ClassVar[tuple[str, ...]] = ()
    """Sidecars that each sample may have."""
    default_sidecars: ClassVar[tuple[str, ...]] = ()
    """Sidecars that are written by default."""
    pixels_offset: ClassVar[int | None] = None
    """Offset of the uncompressed pixels in a payload, which can then be mapped; None if they are
    encoded."""

    def __str__(self) -> str:
        return self.name

    def rows_a_payload(self, block_size: int) -> int:
        """Return the number of samples in every payload of a shard but the last.

        Args:
            block_size: samples per block.
        """
        return block_size if self.has_blocks else 1

    def libraries(self) -> dict[str, str]:
        """Return library -> version; the encoded bytes depend on these, and on Pillow and numpy."""
        return {}

    def least_bytes(self, image_shape: tuple[int, ...]) -> int:
        """Return a low estimate of an image's encoded size in bytes, to check free disk space.

        Args:
            image_shape: (H, W, 3).
        """
        return 0

    @abstractmethod
    def encode(self, images: NDArray[np.uint8]) -> bytes:
        """Encode images as a payload.

        Args:
            images: uint8, shape (N, H, W, 3), C-contiguous; N is 1 without blocks.
        """

    @abstractmethod
    def decode(self, payloads: Payloads, out: NDArray[np.uint8]) -> dict[int, str]:
        """Decode payloads into ``out``.

        Args:
            payloads: N files of one image each, or one block of N images.
            out: uint8, shape (N, H, W, 3), RGB, C-contiguous; overwritten.

        Returns:
            Row -> why it cannot be decoded; ``out`` is undefined in these rows. If a block cannot
            be decoded, all its rows have the same reason.
        """

    def image_shape(self, payload: NDArray[np.uint8]) -> tuple[int, int, int] | None:
        """Return (H, W, 3) from a block's header; None if it is not a block of this encoding.

        Args:
            payload: the block, uint8, one-dimensional.
        """
        return None


@dataclass(frozen=True, slots=True)
class Damage:
    """Damage found in a block when it was decoded; false if there is none."""

    rows: dict[int, str] = field(default_factory=dict)
    """Row -> why its pixels cannot be used."""
    block: str = ""
    """The same reason for the entire block, if the damage cannot be located; else empty."""

    def __bool__(self) -> bool:
        return bool(self.rows)

    def problems(self, block: str) -> dict[int, str]:
        """Return row -> problem; if the damage is the entire block's, ``block`` names it."""
        if not self.block:
            return self.rows
        return {row: f"{block}: {problem}" for row, problem in self.rows.items()}


def decode_block(
    encoding: Encoding,
    payload: NDArray[np.uint8],
    out: NDArray[np.uint8],
    *,
    crc_problem: str = "",
    pixel_hash: NDArray[np.uint8],
) -> Damage:
    """Decode a block of a shard, and find the damaged rows.

    If the CRC-32 differs, a row is intact if its pixel hash is right: a damaged byte of a block
    seldom affects all of its images.

    Args:
        encoding: the shard's encoding.
        payload: the block's payload, uint8, one-dimensional.
        out: uint8, shape (N, H, W, 3), C-contiguous; overwritten.
        crc_problem: what is wrong with the payload's CRC-32; empty if it is right or not checked.
        pixel_hash: pixel hashes of the N images in the index, uint8, shape (N, 16).
    """
    problems = encoding.decode(Payloads.one(payload), out)
    if crc_problem and not problems:
        rows = hash_problems(fmt.pixel_hashes(out), pixel_hash)
        if rows:
            return Damage(rows)
    if crc_problem:
        problems = dict.fromkeys(range(len(out)), crc_problem)
    return Damage(problems, problems.get(0, ""))


def hash_problems(found: NDArray[np.uint8], stated: NDArray[np.uint8]) -> dict[int, str]:
    """Compare pixel hashes with those of an index.

    Args:
        found: the images' hashes, uint8, shape (N, 16).
        stated: the hashes in the index, uint8, shape (N, 16).

    Returns:
        Row -> the difference, for each row whose hashes differ.
    """
    return {
        row: f"its pixels' hash is {found[row].tobytes().hex()}, "
        f"the index says {stated[row].tobytes().hex()}"
        for row in np.flatnonzero((found != stated).any(axis=1)).tolist()
    }
