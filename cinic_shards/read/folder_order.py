"""The order of torchvision's ``ImageFolder``: by class, then by file name."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cinic_shards.format import SplitInfo
from cinic_shards.read.columns import Columns


def folder_order(columns: Columns, splits: Sequence[SplitInfo]) -> NDArray[np.int64]:
    """Return the row of each index into ``ImageFolder``, int64, shape (N,).

    Args:
        columns: the columns of N samples.
        splits: their splits. The samples follow each other in the order of these, as
            ``ConcatDataset`` joins several ImageFolders.
    """
    # With the suffix: a-1.png is before a.png, but the stem a-1 after a.
    files = [f"{key}.png" for key in columns.keys.tolist()]
    rows = np.array(sorted(range(len(files)), key=files.__getitem__), np.int64)
    split_of = np.zeros(len(files), np.int64)
    for number, split in enumerate(splits):
        split_of[columns.split == split.name] = number
    return rows[np.lexsort((columns.labels[rows], split_of[rows]))]
