"""A dataset in a store -> its columns, and payloads by row."""

import os
from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import Payloads, checksums, decode_png
from cinic_shards.errors import DecodeError, FormatError, OptionError
from cinic_shards.format import Manifest, SplitInfo
from cinic_shards.store import LocalStore, open_shard, open_store, read_manifest

CHECKS = ("first", "always", "off")
_READ_AHEAD_BYTES = 2**32
"""A split of at most so many bytes is read ahead as a whole: it is likely to stay in memory."""


class Dataset:
    """A packed dataset: its manifest, and a reader for each split.

    Raises:
        StoreError: there is no dataset at ``place``.
        FormatError: its manifest is damaged or needs a newer release.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.store = open_store(place)
        self.manifest = read_manifest(self.store)

    def split(self, name: str, *, check: str = "first") -> "SplitReader":
        """A reader of one split.

        Args:
            name: the split's name.
            check: see ``SplitReader``.

        Raises:
            OptionError: there is no such split.
            StoreError: a shard is missing or has another size.
            FormatError: a shard's index is damaged.
        """
        info = self.manifest.split(name)
        if info is None:
            known = ", ".join(split.name for split in self.manifest.splits)
            raise OptionError(f"{self.store}: no split {name!r}; there is {known}")
        return SplitReader(self.store, self.manifest, info, check=check)

    def summary(self) -> dict[str, Any]:
        """What ``cinic-shard info`` shows, ready for JSON."""
        manifest = self.manifest
        return {
            "encoding": manifest.encoding,
            "format_version": fmt.VERSION,
            "fingerprint": manifest.fingerprint,
            "licence": manifest.licence,
            "citation": manifest.citation,
            "num_samples": manifest.num_samples,
            "classes": manifest.classes,
            "options": manifest.options,
            "libraries": manifest.libraries,
            "splits": {split.name: _summarize(split) for split in manifest.splits},
        }


def _summarize(split: SplitInfo) -> dict[str, Any]:
    classes: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    for shard in split.shards:
        classes.update(shard.classes)
        origins.update(shard.origins)
    return {
        "num_samples": split.num_samples,
        "num_shards": len(split.shards),
        "bytes": sum(shard.size for shard in split.shards),
        "image_sizes": {f"{h}x{w}": count for (h, w), count in sorted(split.image_sizes.items())},
        "mean": split.pixels.mean,
        "std": split.pixels.std,
        "origins": dict(sorted(origins.items())),
        "classes": dict(sorted(classes.items())),
    }


class SplitReader:
    """One split's N samples, in packing order; a row is a sample's place in the split.

    The shards are memory-mapped: bytes are read when a kernel touches them.

    Args:
        store: where the dataset lies.
        manifest: the dataset's.
        info: the split's part of it.
        check: compare a payload's CRC-32 with the index when it is read: for the ``first`` time,
            ``always``, or never (``off``).
    """

    def __init__(
        self, store: LocalStore, manifest: Manifest, info: SplitInfo, *, check: str = "first"
    ) -> None:
        if check not in CHECKS:
            raise OptionError(f"check={check!r}: expected one of {', '.join(CHECKS)}")
        self.info = info
        read_ahead = sum(shard.size for shard in info.shards) <= _READ_AHEAD_BYTES
        opened = [
            open_shard(store, shard, len(manifest.classes), read_ahead=read_ahead)
            for shard in info.shards
        ]
        self._maps = [memory for memory, _ in opened]
        self._indexes = [index for _, index in opened]
        self.labels: NDArray[np.int64] = np.concatenate(
            [index.label for index in self._indexes], dtype=np.int64
        )
        """Class of each row, shape (N,)."""
        self._lengths = np.concatenate([index.length.astype(np.int64) for index in self._indexes])
        self._addresses = np.concatenate([
            memory.ctypes.data + index.offset.astype(np.int64)
            for memory, index in zip(self._maps, self._indexes, strict=True)
        ])  # fmt: skip
        self._crc32 = np.concatenate([index.crc32 for index in self._indexes])
        self._checks_always = check == "always"
        # Written by several threads: at worst a payload is checked twice.
        self._is_checked = np.full(len(self.labels), check == "off")
        self._shard_starts = np.cumsum([0, *(len(index) for index in self._indexes)])

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of every image.

        Raises:
            FormatError: the split has images of several sizes.
        """
        sizes = sorted(self.info.image_sizes.items(), key=lambda item: -item[1])
        if len(sizes) != 1:
            listed = ", ".join(f"{h}x{w} ({count:,})" for (h, w), count in sizes[:5])
            raise FormatError(
                f"split {self.info.name}: images of {len(sizes)} sizes (height x width): {listed}"
                f"{', ...' if len(sizes) > 5 else ''}; a batch holds one size: resize them before "
                "packing, or read these shards with webdataset"
            )
        height, width = sizes[0][0]
        return height, width, 3

    def ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The dataset-wide ids of these rows."""
        return rows + self.info.first_id

    def key(self, row: int) -> str:
        """``split/class/stem`` of a row."""
        shard, sample = self._place(row)
        return self._indexes[shard].keys[sample]

    def locate(self, row: int) -> str:
        """A sample's place, for a message: shard, sample in it, key."""
        shard, sample = self._place(row)
        return f"{self.info.shards[shard].name}: sample {sample} ({self.key(row)})"

    def _place(self, row: int) -> tuple[int, int]:
        """The shard that holds a row, and the sample in it."""
        shard = int(np.searchsorted(self._shard_starts, row, side="right")) - 1
        return shard, row - int(self._shard_starts[shard])

    def payloads(self, rows: NDArray[np.int64]) -> Payloads:
        """The payloads of these rows."""
        return Payloads(self._addresses[rows], self._lengths[rows], self._maps)

    def read_images(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        """Decode these rows into ``out``, uint8 (len(rows), H, W, 3).

        Returns:
            An error for each damaged payload, in the order of ``rows``: it names shard and sample,
            ``position`` is the place in ``rows``. What ``out`` holds there means nothing.
        """
        payloads = self.payloads(rows)
        reasons = self._check(rows, payloads)
        errors: list[DecodeError] = []
        decode_png(payloads, out, errors)
        for error in errors:
            reasons.setdefault(error.position, error.reason)
        hint = "the file is damaged, fetch it again"
        return [
            DecodeError(position, f"{reason}; {hint}", self.locate(int(rows[position])))
            for position, reason in sorted(reasons.items())
        ]

    def _check(self, rows: NDArray[np.int64], payloads: Payloads) -> dict[int, str]:
        """What is wrong with the CRC-32 of payloads that are to be checked, by position."""
        if self._checks_always:
            positions = np.arange(len(rows))
        else:
            positions = np.flatnonzero(~self._is_checked[rows])
        if len(positions) == 0:
            return {}
        found, stated = checksums(payloads.take(positions)), self._crc32[rows[positions]]
        is_right = found == stated
        self._is_checked[rows[positions[is_right]]] = True
        return {
            int(positions[i]): f"CRC-32 is {found[i]:08x}, the index says {stated[i]:08x}"
            for i in np.flatnonzero(~is_right)
        }
