"""Caches of decoded blocks: in this process's memory, or in a file that a node's processes share.

Both hold the first blocks of a split, as many as fit, at the offsets of their rows. A cache changes
where pixels come from, never the order.
"""

import hashlib
import os
import shutil
import warnings
import weakref
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import checksum
from cinic_shards.errors import DecodeError, OptionError
from cinic_shards.format import Manifest
from cinic_shards.limits import usable_memory
from cinic_shards.loader.cache_folder import (
    CACHE_DIR_VARIABLE,
    DATASET_NAME,
    cache_root,
    expanded,
)
from cinic_shards.options import checked, integer, variable
from cinic_shards.read.split import SplitReader
from cinic_shards.store import lock_byte, lock_file

HostCacheKind = Literal["ram", "disk"]
CacheKind = Literal["none", HostCacheKind, "device"]

WAIT_SECONDS = 10.0
"""Seconds to wait for a process that is filling a block of a disk cache."""

CACHE_BYTES_VARIABLE = "CINIC_SHARDS_CACHE_BYTES"
_NUM_TRIES = 5
"""How often to open a disk cache that another process deletes meanwhile."""


@checked
@dataclass(frozen=True, slots=True)
class Cache:
    """Options of the cache that keeps decoded pixels after an epoch.

    Raises:
        OptionError: an option is invalid, or does not fit ``kind``.

    Example:
        >>> from cinic_shards.loader.cache import Cache
        >>> cache = Cache("ram", max_bytes=200_000_000)
        >>> loader = ShardLoader("shards", batch_size=32, cache=cache)
    """

    kind: CacheKind
    """``none``; ``ram``: in this process; ``disk``: in a file that all processes of this machine
    share; ``device``: on the device, where batches are then gathered and augmented."""
    _: KW_ONLY
    max_bytes: int | None = None
    """Bytes of pixels to keep, with ``ram`` and ``disk``; by default $CINIC_SHARDS_CACHE_BYTES, or
    the entire split if that is not set."""
    folder: str | os.PathLike[str] | None = None
    """Folder of the file, with ``disk``; by default $CINIC_SHARDS_CACHE_DIR, or the user's cache
    folder if that is not set."""

    def __post_init__(self) -> None:
        if self.max_bytes is not None:
            integer("max_bytes", self.max_bytes)
            if self.kind not in get_args(HostCacheKind):
                raise OptionError(f"max_bytes is for ram and disk, not for cache={self.kind!r}")
        if self.folder is not None:
            if self.kind != "disk":
                raise OptionError(f"folder is for disk, not for cache={self.kind!r}")
            # Absolute, because workers may have a different working folder.
            object.__setattr__(self, "folder", expanded("folder", self.folder))


def as_cache(cache: CacheKind | Cache) -> Cache:
    """Return the option ``cache``, which may be just a kind, as a ``Cache``."""
    return cache if isinstance(cache, Cache) else Cache(cache)


class Loaded(NamedTuple):
    """A block that is decoded."""

    images: NDArray[np.uint8]
    """Its pixels, uint8, shape (rows, H, W, 3)."""
    errors: list[DecodeError]
    """An error for each damaged row."""
    was_decoded: bool
    """True if it was decoded now, False if a cache held it."""


class BlockCache:
    """Decoded blocks in this process's memory.

    Args:
        reader: reads the blocks.
        max_bytes: bytes of pixels to keep; None for all.
        needed: numbers of the blocks that will be requested, ascending, at least one.

    Raises:
        OptionError: the pixels do not fit into this machine's memory, or into what its cgroup
            has left.
    """

    def __init__(
        self, reader: SplitReader, max_bytes: int | None, needed: NDArray[np.int64]
    ) -> None:
        self._reader = reader
        self._starts = reader.block_starts
        self._needed = needed
        self.image_bytes = int(np.prod(reader.image_shape))
        self.num_blocks = self._count_blocks(max_bytes)
        """The cache has room for the needed blocks among this many first blocks of the split."""
        self.memory = self._take_memory((int(self._starts[self.num_blocks]), *reader.image_shape))
        """Their pixels, uint8, shape (rows, H, W, 3)."""
        self._is_ready = np.zeros(self.num_blocks, np.bool_)
        self._errors: dict[int, list[DecodeError]] = {}

    def _count_blocks(self, max_bytes: int | None) -> int:
        sizes = np.diff(self._starts) * self.image_bytes
        if max_bytes is None:
            return len(sizes)
        taken = np.zeros_like(sizes)
        taken[self._needed] = sizes[self._needed]
        return int(np.searchsorted(np.cumsum(taken), max_bytes, side="right"))

    def _take_memory(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        kept = self._needed[self._needed < self.num_blocks]  # no other page is touched
        size = int(np.diff(self._starts)[kept].sum()) * self.image_bytes
        if size and (usable := usable_memory()) is not None and size > usable[0]:
            raise OptionError(
                f"cache='ram': the pixels are {size / 1e6:,.1f} MB, {usable[0] / 1e6:,.1f} MB are "
                f"{usable[1]}; set max_bytes of the Cache, or use cache='disk'"
            )
        return np.empty(shape, np.uint8)

    @property
    def holds_all(self) -> bool:
        """True if there is room for every needed block."""
        return bool((self._needed < self.num_blocks).all())

    @property
    def is_complete(self) -> bool:
        """True if every needed block is decoded, and can be read at ``addresses``."""
        return self.holds_all and bool(self._is_ready[self._needed].all())

    def addresses(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the addresses of N rows' pixels, decoded or not: int64, shape (N,)."""
        return self.memory.ctypes.data + rows * self.image_bytes

    def load(self, block: int) -> Loaded | None:
        """Return a block, decoded now unless the cache holds it.

        Returns:
            The block; None if the cache has no room for it, or cannot be filled now.
        """
        if block >= self.num_blocks:
            return None
        images = self.memory[self._starts[block] : self._starts[block + 1]]
        was_decoded = False
        if not self._is_ready[block]:
            filled = self._fill(block, images)
            if filled is None:
                return None
            was_decoded = filled
            self._is_ready[block] = True
        return Loaded(images, self._errors.get(block, []), was_decoded)

    def _fill(self, block: int, images: NDArray[np.uint8]) -> bool | None:
        """Fill a block's memory.

        Returns:
            True if it was decoded, False if another process had filled it; None if it is not
            filled.
        """
        if errors := self._reader.read_block(block, images):
            self._errors[block] = errors
        return True

    def all_errors(self) -> dict[int, list[DecodeError]]:
        """Return block -> its errors, for all loaded blocks with any."""
        return dict(self._errors)


class DiskCache(BlockCache):
    """Decoded blocks in one memory-mapped file of a node, filled by the first process to need them.

    The file ``state`` holds 8 bytes a block: 1 if the block is complete, and the CRC-32 of its
    pixels, both little-endian uint32. A process checks the CRC-32 when it first uses a block, so a
    block that a crash left half-written is decoded again. A process that fills a block holds a
    lock, which is released if the process dies. If a process holds it longer than
    ``WAIT_SECONDS``, or locking fails, there is a warning, and the block is not cached now; from
    then on this cache does not wait any more. ``cinic-shard cache`` lists and deletes the files.

    Args:
        reader: reads the blocks.
        max_bytes: bytes of pixels to keep; None for all.
        needed: numbers of the blocks that will be requested, ascending, at least one.
        folder: folder of the files; used for one split of one dataset only.

    Raises:
        OptionError: the folder cannot be written, or its disk has too little space.
    """

    def __init__(
        self,
        reader: SplitReader,
        max_bytes: int | None,
        needed: NDArray[np.int64],
        folder: Path,
    ) -> None:
        self._folder = folder
        self._wait_seconds = WAIT_SECONDS
        super().__init__(reader, max_bytes, needed)

    def _count_blocks(self, max_bytes: int | None) -> int:
        # The file has room for every block before the last one, needed here or not.
        ends = self._starts[1:] * self.image_bytes
        return len(ends) if max_bytes is None else int(np.searchsorted(ends, max_bytes, "right"))

    def _take_memory(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        try:
            for _ in range(_NUM_TRIES - 1):
                with suppress(FileNotFoundError):  # cinic-shard cache has just deleted the folder
                    return self._open(shape)
            return self._open(shape)
        except OSError as error:
            raise OptionError(
                f"cache='disk': {self._folder}: {error.strerror}; set folder of the Cache to "
                "a writable folder"
            ) from error

    def _open(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        self._folder.mkdir(parents=True, exist_ok=True)
        size = int(np.prod(shape))
        path = self._folder / "pixels"
        missing = size - (path.stat().st_size if path.exists() else 0)
        free = shutil.disk_usage(self._folder).free
        if missing > free:
            raise OptionError(
                f"cache='disk': {self._folder}: the split's pixels need {missing / 1e6:,.1f} "
                f"MB, {free / 1e6:,.1f} MB are free; set max_bytes of the Cache, or its folder "
                f"to another disk (${CACHE_BYTES_VARIABLE} and ${CACHE_DIR_VARIABLE} do the "
                "same)"
            )
        # A separate file, because closing any descriptor of a locked file drops the lock.
        self._locks = os.open(self._folder / "locks", os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, self._locks)
        self._mark_as_used()
        with (
            lock_byte(self._locks, 2**40, wait_seconds=WAIT_SECONDS) as problem,
            open(path, "a+b") as pixels,
            open(self._folder / "state", "a+b") as state,
        ):
            if problem:
                raise OptionError(
                    f"cache='disk': {self._folder}: {problem}, or set folder of the Cache"
                )
            for file, length in ((pixels, size), (state, 8 * self.num_blocks)):
                if os.fstat(file.fileno()).st_size < length:
                    _reserve(file.fileno(), length)
        self._state = (
            np.memmap(self._folder / "state", np.uint32, "r+", 0, (self.num_blocks, 2))
            if self.num_blocks
            else np.zeros((0, 2), np.uint32)
        )
        return np.memmap(path, np.uint8, "r+", 0, shape) if size else np.empty(shape, np.uint8)

    def _mark_as_used(self) -> None:
        note = self._folder / DATASET_NAME
        note.write_bytes(os.fsencode(self._reader.location))
        if (lock := lock_file(note, shared=True)) is not None:  # else it is being deleted
            weakref.finalize(self, lock.close)

    def _fill(self, block: int, images: NDArray[np.uint8]) -> bool | None:
        with lock_byte(self._locks, block, wait_seconds=self._wait_seconds) as problem:
            if problem:
                if self._wait_seconds:
                    self._wait_seconds = 0.0
                    warnings.warn(
                        f"cache='disk': {self._folder}: {problem}; the blocks that this process "
                        "cannot lock are not cached now",
                        stacklevel=2,
                    )
                return None
            is_complete, crc32 = self._state[block].tolist()
            if is_complete == 1 and checksum(images) == crc32:
                return False
            super()._fill(block, images)
            # A damaged block never counts as complete, so each process reports it.
            if block not in self._errors:
                self._state[block, 1] = checksum(images)
                self._state[block, 0] = 1
            return True


def _reserve(descriptor: int, length: int) -> None:
    """Make a file ``length`` bytes long, and reserve its space if the system can.

    If the disk filled up later, a process that writes to a map of the file would be killed.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, length)
    else:
        os.ftruncate(descriptor, length)


def open_cache(
    cache: Cache, manifest: Manifest, reader: SplitReader, needed: NDArray[np.int64]
) -> BlockCache:
    """Open a cache for the blocks of a split; with the kind ``none`` it has no room for any.

    Args:
        cache: the options.
        manifest: the dataset's manifest.
        reader: reads the blocks.
        needed: numbers of the blocks that will be requested, ascending, at least one.

    Raises:
        OptionError: there is too little memory or disk space, the folder cannot be written, or
            $CINIC_SHARDS_CACHE_BYTES is not an integer.
    """
    limit = _limit_of(cache)
    if cache.kind == "disk" and limit != 0:
        return DiskCache(reader, limit, needed, _folder_of(cache, manifest, reader))
    return BlockCache(reader, limit, needed)


def _limit_of(cache: Cache) -> int | None:
    """Return the bytes of pixels to keep; None for all."""
    if cache.kind not in get_args(HostCacheKind):
        return 0
    text = variable(CACHE_BYTES_VARIABLE)
    if cache.max_bytes is not None or text is None:
        return cache.max_bytes
    try:
        max_bytes = int(text)
    except ValueError as error:
        raise OptionError(
            f"${CACHE_BYTES_VARIABLE} is {text!r}, expected a number of bytes"
        ) from error
    return integer(f"${CACHE_BYTES_VARIABLE}", max_bytes)


def _folder_of(cache: Cache, manifest: Manifest, reader: SplitReader) -> Path:
    """Return the folder of a reader's blocks, named by a digest that covers all pixel hashes."""
    digest = hashlib.sha256(manifest.fingerprint.encode())
    for shard in reader.shards:
        digest.update(shard.index_sha256.encode())
    return cache_root(cache.folder) / digest.hexdigest()[:32] / reader.name
