"""What a shard is made from: N samples in packing order."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import Encoding, Payloads
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.format.provenance import Provenance, parse_stem


class ShardInput(ABC):
    """What a job carries to the process that makes its shard, and what is opened there."""

    @abstractmethod
    def open(self) -> "Samples":
        """The samples, ready to be read.

        Raises:
            StoreError, FormatError: they cannot be read.
        """


class Samples(ABC):
    """N samples in packing order; what is wrong is reported by row among those asked for."""

    @property
    @abstractmethod
    def keys(self) -> list[str]:
        """``split/class/stem`` of each."""

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int32]:
        """Class indices, shape (N,)."""

    @cached_property
    def provenances(self) -> list[Provenance]:
        """The origin of each."""
        return [parse_stem(key.rpartition("/")[2]) for key in self.keys]

    @abstractmethod
    def location(self, row: int) -> str:
        """What to call a sample in a message."""

    @abstractmethod
    def chunks(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows to work on at once."""

    @abstractmethod
    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        """Bytes of the PNGs of a range."""

    @abstractmethod
    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        """Put the PNGs of a range to their places in a buffer; gives what was wrong, by row."""

    def read_images(
        self, start: int, stop: int, out: NDArray[np.uint8], meter: ImageMeter
    ) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Decode a range into ``out`` uint8 (N, H, W, 3), and measure it.

        Returns:
            Pixel hashes, uint8, shape (N, 16); and what was wrong, by row.
        """
        sizes = self.png_sizes(start, stop)
        starts = np.cumsum(sizes) - sizes
        buffer = np.zeros(max(1, int(sizes.sum())), np.uint8)
        unread = self.read_pngs(start, stop, buffer, starts)
        payloads = Payloads.in_buffer(buffer, starts, sizes)
        hashes, bad = meter.add_pngs(payloads, buffer, starts, out)
        return hashes, bad | unread

    def block_payload(self, start: int, stop: int, encoding: Encoding) -> bytes | None:
        """The payload of a block of this range, if just that exists already."""
        return None

    def pixel_problems(self, hashes: NDArray[np.uint8]) -> dict[int, str]:
        """What is wrong where pixels with these hashes, uint8 (N, 16), are not the samples'."""
        return {}
