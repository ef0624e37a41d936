"""Read a remote dataset's manifest and indexes in a child process, and leave no client behind here.

An object store's client cannot be used after a fork, and a DataLoader on Linux forks its workers.
The child is a new interpreter: a fork would copy locks that other threads of this process hold.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import BinaryIO

from cinic_shards.errors import StoreError
from cinic_shards.read.dataset import may_mean
from cinic_shards.read.open import read_indexes, read_manifest
from cinic_shards.store import Bytes, RemoteStore

_Read = tuple[str, int, int]
"""Name of a file, start and stop of a range; start and stop are -1 for the complete file."""


class StoreWithReads(RemoteStore):
    """A remote store that remembers what was read, by itself or in another process."""

    def __init__(self, store: RemoteStore, reads: dict[_Read, Bytes]) -> None:
        super().__init__(store.address)
        self.reads = reads

    def read(self, name: str) -> bytes:
        key = (name, -1, -1)
        if key not in self.reads:
            self.reads[key] = super().read(name)
        return bytes(self.reads[key])

    def read_range(self, name: str, start: int, stop: int) -> Bytes:
        key = (name, start, stop)
        if key not in self.reads:
            self.reads[key] = bytes(super().read_range(name, start, stop))
        return self.reads[key]


def read_in_child(store: RemoteStore, splits: Sequence[str]) -> StoreWithReads:
    """Read the manifest, and the indexes of splits, in a child process.

    Args:
        store: the dataset's store.
        splits: names of splits, see ``dataset.may_mean``; unknown ones are ignored.

    Returns:
        A store that has these bytes, and reads others itself.

    Raises:
        StoreError, FormatError: they cannot be read, or the child was killed.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which then ends the child
    ) as child:
        try:
            answer, _ = child.communicate(pickle.dumps((store, splits)))
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        raise StoreError(
            str(store),
            f"the process that read its indexes ended with status {child.returncode}; try again",
        )
    reads, error = pickle.loads(answer)
    if error is not None:
        raise error
    return StoreWithReads(store, reads)


def main() -> None:
    """Read what the parent asks for on standard input, and write it to standard output."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whatever a library prints must not mix with the answer
        _answer(sys.stdin.buffer, out)


def _answer(request: BinaryIO, out: BinaryIO) -> None:
    store, splits = pickle.load(request)
    recorded = StoreWithReads(store, {})
    error = None
    try:
        manifest = read_manifest(recorded)
        wanted = [s for s in manifest.splits if any(may_mean(name, s.name) for name in splits)]
        shards = [shard for split in wanted for shard in split.shards]
        read_indexes(recorded, shards, len(manifest.classes))
    except Exception as raised:
        error = raised
    pickle.dump((recorded.reads, error), out)
