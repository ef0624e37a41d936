"""The journal of a packing job: with it, the same command can resume after an interruption.

The journal is in the folder ``_packing`` inside the output, with the shards until all of them are
made; see ``store.work_folder``. Each note is a separate file, because an object store cannot append
to one: ``begin.json`` is the start of the job, ``<shard>.json`` a finished shard, ``moving.json``
the start of moving the finished dataset to the output. ``listing.npz`` holds the input's files,
sizes and dates.
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
from cinic_shards.store import LocalStore, Store, WorkFolder
from cinic_shards.tree.listing import Listing, changes
from cinic_shards.tree.spool import remove_old_spools
from cinic_shards.write.facts import ShardFacts

_BEGIN = "begin.json"
_MOVING = "moving.json"
_LISTING = "listing.npz"
_NOTE = ".json"
"""Suffix of a finished shard's note, after the shard's name."""


class Journal:
    """The journal of one output, held by one process at a time if the store has locks.

    Use it as a context manager, which releases the lock. Call ``remove`` when there is nothing
    left to resume.
    """

    def __init__(self, out: Store) -> None:
        """Lock an output's journal; make a new one unless an earlier process left one.

        Args:
            out: the output's store.

        Raises:
            OutputError: another process holds the lock, the journal is damaged, or its folder holds
                other files.
            StoreError: the journal cannot be read.
            OSError: the folder cannot be written.
        """
        self._work = WorkFolder(out, fmt.PACKING_FOLDER, "packing")
        self.folder = self._work.files
        """The store of the journal and of the shards that are not moved yet."""
        try:
            names = self.folder.names()
            self.start: dict[str, Any] | None = self._read(_BEGIN) if _BEGIN in names else None
            """The note of the job's start; None if no job has begun."""
            notes = [name for name in names if name.endswith(f".tar{_NOTE}")]
            self.shards: list[dict[str, Any]] = [self._read(name) for name in notes]
            """The notes of all shards that an earlier process finished."""
            self.num_finished = len(self.shards)
            """The number of finished shards."""
            self.old_files: list[str] | None = None
            """The files that the finished dataset replaces; None until it is being moved."""
            if _MOVING in names:
                self.old_files = self._read(_MOVING)["old_files"]
        except BaseException:
            self._work.__exit__()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._work.__exit__(*error)

    def __str__(self) -> str:
        """The location of the journal's folder, for messages."""
        return str(self._work)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self.folder.read(name))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise OutputError(f"{self}: {name} in it is damaged; remove {self} and run again")
        return content

    def begin(self, source: str, now: Listing, options: dict[str, Any]) -> None:
        """Start a new job, or resume an earlier one with the same input and options.

        Args:
            source: the input's location, for messages.
            now: the input's files, sizes and dates.
            options: the options that the output's bytes depend on.

        Raises:
            OutputError: the earlier job had different options.
            TreeError: the input has changed since the earlier job; names the files.
        """
        expected = {"release": __version__, "options": options}
        if self.start is None:
            self._clear(keep=set())
            with self.folder.create(_LISTING) as file:
                np.savez(file, **now)  # type: ignore[arg-type]
            self.start = expected
            self._write(_BEGIN, self.start)
            return
        if self.start != expected:
            raise OutputError(
                f"{self}: an unfinished packing job was started with {self.start}, this one "
                f"with {expected}; use the same options to resume, or remove that folder to start "
                "over"
            )
        memory = self.folder.map(_LISTING, self.folder.size(_LISTING))
        with np.load(io.BytesIO(memory.data)) as listing:
            before = dict(listing.items())
        if problems := list(changes(before, now)):
            problems.append(f"undo these changes, or remove {self} to start over")
            raise TreeError(source, problems)
        noted = {shard["info"]["name"] for shard in self.shards}
        notes = {name + _NOTE for name in noted}
        self._clear(keep={*noted, *notes, _BEGIN, _MOVING, _LISTING})

    def _clear(self, keep: set[str]) -> None:
        """Delete the job's files but those in ``keep``."""
        for name in self.folder.names():
            if name not in keep:
                self.folder.delete(name)

    def shard_done(self, facts: ShardFacts) -> None:
        """Write the note of a finished shard."""
        sizes = [[*size, count] for size, count in facts.image_sizes.items()]
        pixels = dataclasses.asdict(facts.pixels)
        info = dataclasses.asdict(facts.info)
        note = {"split": facts.split, "info": info, "image_sizes": sizes, "pixels": pixels}
        self.num_finished += 1  # first: a note that is being written may already count
        self._write(facts.info.name + _NOTE, note)

    def moving(self, old_files: Sequence[str]) -> None:
        """Note that all files are written, and name the old files that will be deleted."""
        self.old_files = list(old_files)
        self._write(_MOVING, {"old_files": self.old_files})

    def remove(self) -> list[str]:
        """Delete the journal and all other files of the job.

        Returns:
            The names of files that packing did not make, which are left in the folder.

        Raises:
            OutputError: a file cannot be deleted.
        """
        # If this is interrupted, the same command must still find the start of the job or, at the
        # very end, the names of the files that it may replace.
        self._clear(keep={_BEGIN, _LISTING, _MOVING})
        self._clear(keep={_MOVING})
        if isinstance(self.folder, LocalStore):
            remove_old_spools(self.folder.root)
        return self._work.remove()

    def _write(self, name: str, note: dict[str, Any]) -> None:
        self.folder.write(name, json.dumps(note).encode())


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A finished shard of a journal."""

    stores: tuple[Store, ...]
    """The stores that it may be in."""
    noted: dict[str, Any]
    """Its note in the journal."""


def reopen_shard(shard: FinishedShard) -> ShardFacts | None:
    """Return the facts of a finished shard; None if its SHA-256 differs from its note.

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
