"""Images from outside -> records: one file for each kind of source, and their registry."""

import os
from pathlib import Path

from cinic_shards.tree.archive import ArchiveSource
from cinic_shards.tree.folder import FolderSource
from cinic_shards.tree.records import Source

__all__ = ["SOURCES", "Source", "find_source"]

SOURCES: tuple[type[Source], ...] = (ArchiveSource, FolderSource)
"""The first one that fits a path is used. A folder fits any: it says what is wrong with it."""


def find_source(root: str | os.PathLike[str] | Source) -> Source:
    """The source at a path; a source is given back as it is. Nothing is read yet."""
    if isinstance(root, Source):
        return root
    path = Path(root)
    return next(kind for kind in SOURCES if kind.fits(path))(path)
