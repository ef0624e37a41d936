"""What a packing job has done so far, so that the same command can go on where one was killed.

The journal lies in the folder ``_packing`` inside the output, with the shards until all of them are
made. Each note is a file of its own, so that an object store can hold it: how the job began; every
finished shard, beside it; and that the finished dataset began to move to its place.
``listing.npz`` holds the source's files, sizes and dates.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import cinic_shards.format as fmt
from cinic_shards._version import __version__
from cinic_shards.errors import CinicShardsError, OutputError, TreeError
from cinic_shards.format import PixelSums, ShardInfo
from cinic_shards.read.open import open_shard
from cinic_shards.store import Store
from cinic_shards.tree.listing import Listing, changes
from cinic_shards.tree.spool import SPOOL_SUFFIX
from cinic_shards.write.facts import ShardFacts

_BEGIN = "begin.json"
_MOVING = "moving.json"
_LISTING = "listing.npz"
_LOCK = "lock"
_NOTE = ".json"
"""After a shard's name: what it holds."""


class Journal:
    """The journal of one output, held by one process at a time where the store has locks.

    Use as a context manager, which lets it go; ``remove`` it when there is nothing to go on with.
    """

    def __init__(self, out: Store) -> None:
        """Hold the journal of an output, one that an earlier process left or a new one.

        Raises:
            OutputError: another process holds it, or it is damaged.
            StoreError: it cannot be read.
            OSError: the folder cannot be written.
        """
        self.folder = out.folder(fmt.PACKING_FOLDER)
        self.folder.make()
        self._lock = self.folder.lock(_LOCK)
        if self._lock is None:
            raise OutputError(f"{out}: another process is packing there")
        try:
            names = self.folder.names()
            self.start: dict[str, Any] | None = self._read(_BEGIN) if _BEGIN in names else None
            """How the job began; None where none has."""
            notes = [name for name in names if name.endswith(f".tar{_NOTE}")]
            self.shards: list[dict[str, Any]] = [self._read(name) for name in notes]
            """Every finished shard."""
            self.old_files: list[str] | None = None
            """What the finished dataset takes the place of, once it has begun to move there."""
            if _MOVING in names:
                self.old_files = self._read(_MOVING)["old_files"]
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._lock is not None
        self._lock.close()

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self.folder.read(name))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise OutputError(f"{self.folder}/{name}: damaged; remove {self.folder} and run again")
        return content

    def begin(self, source: str, now: Listing, options: dict[str, Any]) -> None:
        """Start a new job, or go on with an earlier one of the same source and options.

        Args:
            source: what to call the source in an error.
            now: what is in it.
            options: what else the output's bytes depend on.

        Raises:
            OutputError: the earlier job had other options.
            TreeError: the source has changed since; names the files.
        """
        expected = {"release": __version__, "options": options}
        if self.start is None:
            self._clear(keep={_LOCK, *self._spools()})
            with self.folder.create(_LISTING) as file:
                np.savez(file, **now)  # type: ignore[arg-type]
            self.start = expected
            self._write(_BEGIN, self.start)
            return
        if self.start != expected:
            raise OutputError(
                f"{self.folder}: a packing job that did not finish began with {self.start}, this "
                f"one has {expected}; run it as it began, or remove that folder to begin anew"
            )
        memory = self.folder.map(_LISTING, self.folder.size(_LISTING))
        with np.load(io.BytesIO(memory.data)) as listing:
            before = dict(listing.items())
        if problems := list(changes(before, now)):
            problems.append(f"undo these changes, or remove {self.folder} to pack anew")
            raise TreeError(source, problems)
        noted = {shard["info"]["name"] for shard in self.shards}
        notes = {name + _NOTE for name in noted}
        self._clear(keep={*noted, *notes, _BEGIN, _MOVING, _LISTING, _LOCK, *self._spools()})

    def _spools(self) -> list[str]:
        """The images of an archive, from which this process is going to pack."""
        return [name for name in self.folder.names() if name.endswith(SPOOL_SUFFIX)]

    def _clear(self, keep: set[str]) -> None:
        """Delete what was not finished, or not noted."""
        for name in self.folder.names():
            if name not in keep:
                self.folder.delete(name)

    def shard_done(self, facts: ShardFacts) -> None:
        """Note a finished shard."""
        sizes = [[*size, count] for size, count in facts.image_sizes.items()]
        pixels = dataclasses.asdict(facts.pixels)
        info = dataclasses.asdict(facts.info)
        note = {"split": facts.split, "info": info, "image_sizes": sizes, "pixels": pixels}
        self._write(facts.info.name + _NOTE, note)

    def moving(self, old_files: Sequence[str]) -> None:
        """Note that every file is made, and what is deleted now to make room for them."""
        self.old_files = list(old_files)
        self._write(_MOVING, {"old_files": self.old_files})

    def remove(self) -> None:
        """Delete the journal and everything beside it.

        Raises:
            OutputError: it cannot be deleted.
        """
        # Where this is stopped, the same command must still find how it began, or at last, by name,
        # what it may replace.
        self._clear(keep={_BEGIN, _LISTING, _LOCK, _MOVING})
        self.folder.remove()

    def _write(self, name: str, note: dict[str, Any]) -> None:
        with self.folder.create(name) as file:
            file.write(json.dumps(note).encode())


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A shard that a journal notes, and where it may be."""

    stores: tuple[Store, ...]
    noted: dict[str, Any]


def reopen_shard(shard: FinishedShard) -> ShardFacts | None:
    """The facts of a finished shard; None where its bytes are not those that were noted.

    Runs in any process.
    """
    info = ShardInfo(**shard.noted["info"])
    for store in shard.stores:
        try:
            memory, index = open_shard(store, info, 2**31 - 1)
        except CinicShardsError:
            continue
        if hashlib.sha256(memory.data).hexdigest() == info.sha256:
            noted = shard.noted["pixels"]
            return ShardFacts(
                shard.noted["split"],
                info,
                index.fingerprint_input(),
                {(height, width): count for height, width, count in shard.noted["image_sizes"]},
                PixelSums(noted["count"], tuple(noted["sums"]), tuple(noted["square_sums"])),
            )
    return None
