"""What an encoding is: everything that differs between encodings is asked of its object."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec.payloads import Payloads


class Encoding(ABC):
    """How images become the payloads of a shard, and payloads images.

    A payload holds the file of one image, or a block of images that have one size.
    """

    name: ClassVar[str]
    """As manifests, indexes and options call it."""
    suffix: ClassVar[str]
    """What follows the name of a sample or block in the member that is its payload."""
    has_blocks: ClassVar[bool] = True
    """Whether a payload holds a block; then all images of a dataset have one size."""
    sidecars: ClassVar[tuple[str, ...]] = ()
    """Members that may stand beside each sample."""
    default_sidecars: ClassVar[tuple[str, ...]] = ()
    """Those that do unless others are asked for."""
    pixels_offset: ClassVar[int | None] = None
    """Where in a payload its images' pixels begin, as they lie in memory; None where they are
    encoded. Such payloads can be mapped, and a damaged byte belongs to one image."""

    def __str__(self) -> str:
        return self.name

    def rows_a_payload(self, block_size: int) -> int:
        """Samples in every payload of a shard but the last.

        Args:
            block_size: samples a block.
        """
        return block_size if self.has_blocks else 1

    def libraries(self) -> dict[str, str]:
        """Library -> version: those that a payload's bytes depend on, beside Pillow and numpy."""
        return {}

    def least_bytes(self, image_shape: tuple[int, ...]) -> int:
        """About what an image takes at least; to refuse a disk that is too small before writing."""
        return 0

    @abstractmethod
    def encode(self, images: NDArray[np.uint8]) -> bytes:
        """A payload of images: uint8, shape (N, H, W, 3), C-contiguous; N is 1 without blocks."""

    @abstractmethod
    def decode(self, payloads: Payloads, out: NDArray[np.uint8]) -> dict[int, str]:
        """Decode payloads into ``out``.

        Args:
            payloads: N files of an image each, or one block of N images.
            out: uint8, shape (N, H, W, 3), RGB, C-contiguous; overwritten.

        Returns:
            Row -> what is wrong with it; what ``out`` holds there means nothing. A block that
            cannot be decoded has the same reason for each of its rows.
        """

    def image_shape(self, payload: NDArray[np.uint8]) -> tuple[int, int, int] | None:
        """(H, W, 3) as a block's header states it; None where it is no block of this encoding."""
        return None

    def decode_rows(
        self, payload: NDArray[np.uint8], num_images: int, rows: NDArray[np.int64],
        image_shape: tuple[int, ...],
    ) -> tuple[NDArray[np.uint8], str]:  # fmt: skip
        """Some images of a block.

        Args:
            payload: the block.
            num_images: in the block.
            rows: those that are wanted, shape (n,).
            image_shape: (H, W, 3).

        Returns:
            uint8, shape (n, H, W, 3), and what is wrong with the block.
        """
        images = np.empty((num_images, *image_shape), np.uint8)
        problems = self.decode(Payloads.one(payload), images)
        return images[rows], problems.get(0, "")


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a block that was decoded; false where nothing is."""

    rows: dict[int, str] = field(default_factory=dict)
    """Row -> why its pixels cannot be used."""
    block: str = ""
    """The same reason for the whole block, where it cannot be told which row is damaged."""

    def __bool__(self) -> bool:
        return bool(self.rows)


def decode_block(
    encoding: Encoding,
    payload: NDArray[np.uint8],
    out: NDArray[np.uint8],
    *,
    crc_problem: str = "",
    pixel_hash: NDArray[np.uint8],
) -> Damage:
    """Decode a block of a shard, and find the rows that are damaged.

    Args:
        encoding: the shard's.
        payload: the block's.
        out: uint8, shape (N, H, W, 3), C-contiguous; overwritten.
        crc_problem: what is wrong with the payload's CRC-32, where it was compared.
        pixel_hash: what the index says of the N images, uint8, shape (N, 16).
    """
    problems = encoding.decode(Payloads.one(payload), out)
    if crc_problem and not problems and encoding.pixels_offset is not None:
        rows = hash_problems(fmt.pixel_hashes(out), pixel_hash)
        if rows:
            return Damage(rows)
    if crc_problem:
        problems = dict.fromkeys(range(len(out)), crc_problem)
    return Damage(problems, problems.get(0, ""))


def hash_problems(found: NDArray[np.uint8], stated: NDArray[np.uint8]) -> dict[int, str]:
    """What is wrong with the images whose pixel hash is not the stated one, by row.

    Args:
        found: the images' hashes, uint8, shape (N, 16).
        stated: what the index says, uint8, shape (N, 16).
    """
    return {
        row: f"its pixels' hash is {found[row].tobytes().hex()}, "
        f"the index says {stated[row].tobytes().hex()}"
        for row in np.flatnonzero((found != stated).any(axis=1)).tolist()
    }
