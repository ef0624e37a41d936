"""What a packing job has done so far, so that the same command can go on where one was killed.

The journal lies in the folder ``_packing`` inside the output, with the shards until all of them are
made. A line of JSON each: how the job began; every finished shard; and when the finished dataset
began to move to its place. ``listing.npz`` beside it holds the source's files, sizes and dates.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import cinic_shards.format as fmt
from cinic_shards import __version__
from cinic_shards.errors import CinicShardsError, OutputError, TreeError
from cinic_shards.facts import ShardFacts
from cinic_shards.format import PixelSums, ShardInfo
from cinic_shards.listing import Listing, changes
from cinic_shards.store import LocalStore, lock_file, open_shard

_JOURNAL = "journal.jsonl"
_LISTING = "listing.npz"
_LOCK = "lock"


class Journal:
    """The journal of one output, held by one process at a time.

    Use as a context manager, which lets it go; ``remove`` it when there is nothing to go on with.
    """

    def __init__(self, out: Path) -> None:
        """Hold the journal of an output, one that an earlier process left or a new one.

        Raises:
            OutputError: another process holds it.
            OSError: the folder cannot be written.
        """
        self.folder = out / fmt.PACKING_FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(self.folder / _LOCK)
        if lock is None:
            raise OutputError(f"{out}: another process is packing there")
        self._lock: BinaryIO = lock
        try:
            lines = list(self._read_lines())
        except BaseException:
            lock.close()
            raise
        self.start: dict[str, Any] | None = lines[0] if lines else None
        """How the job began; None where none has."""
        self.shards: list[dict[str, Any]] = [line["shard"] for line in lines if "shard" in line]
        """Every finished shard."""
        self.old_files: list[str] | None = None
        """What the finished dataset takes the place of, once it has begun to move there."""
        for line in lines:
            self.old_files = line.get("moving", self.old_files)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def _read_lines(self) -> Iterator[dict[str, Any]]:
        path = self.folder / _JOURNAL
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a line that was cut short when the process was killed
            os.truncate(path, whole)
        for line in data[:whole].splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                content = None
            if not isinstance(content, dict):
                raise OutputError(f"{path}: damaged; remove {self.folder} and run again")
            yield content

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
        if self.start is None:
            for name in os.listdir(self.folder):
                if name != _LOCK:
                    (self.folder / name).unlink()
            with open(self.folder / _LISTING, "wb") as file:
                np.savez(file, **now)  # type: ignore[arg-type]
            self.start = {"release": __version__, "options": options}
            self._write(self.start)
            return
        expected = {"release": __version__, "options": options}
        if self.start != expected:
            raise OutputError(
                f"{self.folder}: a packing job that did not finish began with {self.start}, this "
                f"one has {expected}; run it as it began, or remove that folder to begin anew"
            )
        with np.load(self.folder / _LISTING) as listing:
            before = dict(listing.items())
        if problems := list(changes(before, now)):
            problems.append(f"undo these changes, or remove {self.folder} to pack anew")
            raise TreeError(source, problems)
        noted = {shard["info"]["name"] for shard in self.shards}
        for name in set(os.listdir(self.folder)) - noted - {_JOURNAL, _LISTING, _LOCK}:
            (self.folder / name).unlink()  # not finished, or not noted

    def shard_done(self, facts: ShardFacts) -> None:
        """Note a finished shard."""
        sizes = [[*size, count] for size, count in facts.image_sizes.items()]
        pixels = dataclasses.asdict(facts.pixels)
        info = dataclasses.asdict(facts.info)
        self._write({
            "shard": {"split": facts.split, "info": info, "image_sizes": sizes, "pixels": pixels}
        })  # fmt: skip

    def moving(self, old_files: Sequence[str]) -> None:
        """Note that every file is made, and what is deleted now to make room for them."""
        self.old_files = list(old_files)
        self._write({"moving": self.old_files})

    def remove(self) -> None:
        """Delete the journal and everything beside it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, line: dict[str, Any]) -> None:
        with open(self.folder / _JOURNAL, "ab") as file:
            file.write(json.dumps(line).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A shard that a journal notes, and where it may be."""

    folders: tuple[Path, ...]
    noted: dict[str, Any]


def reopen_shard(shard: FinishedShard) -> ShardFacts | None:
    """The facts of a finished shard; None where its bytes are not those that were noted.

    Runs in any process.
    """
    info = ShardInfo(**shard.noted["info"])
    for folder in shard.folders:
        try:
            memory, index = open_shard(LocalStore(folder), info, 2**31 - 1)
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
