"""The samples that a loader visits, as the dataset that it belongs to."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.selection import select
from cinic_shards.read.shared import open_shared
from cinic_shards.read.split import Check
from cinic_shards.read.subset import Subset
from cinic_shards.store import StoreLike


class SelectedSamples(Dataset):
    """A dataset, and the N selected samples of one of its splits, or of several.

    It can be pickled: the samples' numbers travel, and the files are opened again.

    Args:
        path: the dataset's folder, URL or open store.
        split: the split, or several as in ``train+valid``.
        subset: the conditions on samples.
        check: see ``SplitReader``.

    Raises:
        OptionError: there is no such split, or no sample is left.
        StoreError: a file cannot be read, or its size differs from the manifest.
        FormatError: a file is damaged.
    """

    def __init__(self, path: StoreLike, split: str, subset: Subset, check: Check) -> None:
        super().__init__(path)
        self._split_and_check = split, check
        self.reader = open_shared(self, split, check).share()
        """Reads the split."""
        self.selection = select(self, self.reader, subset, split)
        """The selected rows of ``reader``."""
        self._relabel()

    def _relabel(self) -> None:
        """Give the reader, which is this loader's own, the selection's labels."""
        if self.selection.labels is not None:
            labels = np.full(len(self.reader), -1, np.int64)
            labels[self._rows] = self.selection.labels
            self.reader.labels = labels

    def __len__(self) -> int:
        """Return N."""
        return len(self.selection)

    @property
    def classes(self) -> list[str]:
        """Class names; a label is a position in this list."""
        return list(self.selection.classes or self.manifest.classes)

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Class name -> label."""
        return {name: label for label, name in enumerate(self.classes)}

    @property
    def targets(self) -> list[int]:
        """The samples' labels, by id."""
        labels: list[int] = self.reader.labels[self._rows].tolist()
        return labels

    @property
    def ids(self) -> NDArray[np.int64]:
        """The samples' ids, ascending, int64, shape (N,)."""
        return self.reader.ids(self._rows)

    @cached_property
    def digests(self) -> tuple[str, str]:
        """Digests of the selected ids and of the selection's ``block_starts``."""
        return self.selection.digests(self.reader)

    @property
    def _rows(self) -> NDArray[np.int64]:
        return self.selection.rows_at(np.arange(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "split_and_check": self._split_and_check,
            "selection": self.selection,
            "fingerprint": self.manifest.fingerprint,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__(state["store"])
        if self.manifest.fingerprint != state["fingerprint"]:
            raise FormatError(
                str(self.store), "the dataset has changed since it was opened; open it again"
            )
        self._split_and_check = split, check = state["split_and_check"]
        self.reader = open_shared(self, split, check).share()
        self.selection = state["selection"]
        self._relabel()
