"""The input of a shard: N samples in packing order."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import Encoding, Payloads
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.format.provenance import Provenance, parse_stem


class ShardInput(ABC):
    """A picklable description of samples, which a job carries to the process that opens them."""

    @abstractmethod
    def count_classes(self) -> int:
        """Return the number of different classes of the samples."""

    @abstractmethod
    def open(self) -> "Samples":
        """Open the samples for reading.

        Raises:
            StoreError, FormatError: they cannot be read.
        """


class Samples(ABC):
    """N samples in packing order.

    Methods that read a range return its problems as a dict: position in the range -> text.
    """

    @property
    @abstractmethod
    def keys(self) -> list[str]:
        """``split/class/stem`` of each sample."""

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int32]:
        """Class of each sample, shape (N,)."""

    @cached_property
    def provenances(self) -> list[Provenance]:
        """Origin, synset and number of each sample, from its key."""
        return [parse_stem(key.rpartition("/")[2]) for key in self.keys]

    @abstractmethod
    def location(self, row: int) -> str:
        """Return a sample's location, for messages."""

    @abstractmethod
    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows, (start, stop), to read one at a time."""

    @abstractmethod
    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the sizes of a range's PNGs in bytes, shape (stop - start,)."""

    @abstractmethod
    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        """Copy the PNGs of a range into a buffer.

        Args:
            start: first row.
            stop: end of the range; that of the last call of ``png_sizes``.
            buffer: uint8, one-dimensional; overwritten at ``starts``.
            starts: offset of each PNG in the buffer, shape (stop - start,).

        Returns:
            Problems by position in the range.
        """

    def read_images(
        self, start: int, stop: int, out: NDArray[np.uint8], meter: ImageMeter
    ) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Decode a range of n samples into ``out``, uint8 (n, H, W, 3), and measure it.

        Returns:
            Pixel hashes, uint8 (n, 16), and problems by position in the range.
        """
        sizes = self.png_sizes(start, stop)
        starts = np.cumsum(sizes) - sizes
        buffer = np.zeros(max(1, int(sizes.sum())), np.uint8)
        unread = self.read_pngs(start, stop, buffer, starts)
        payloads = Payloads.in_buffer(buffer, starts, sizes)
        hashes, bad = meter.add_pngs(payloads, buffer, starts, out)
        return hashes, bad | unread

    def block_payload(self, start: int, stop: int, encoding: Encoding) -> bytes | None:
        """Return the payload of a block of exactly this range; None if it must be encoded."""
        return None

    def pixel_problems(self, hashes: NDArray[np.uint8]) -> dict[int, str]:
        """Compare pixel hashes, uint8 (N, 16), with known ones; return problems by row."""
        return {}
