"""Sources of images, which give records: one file for each source, and their registry."""

import os
from pathlib import Path

from cinic_shards.tree.archive import ArchiveSource
from cinic_shards.tree.folder import FolderSource
from cinic_shards.tree.records import Source

__all__ = ["SOURCES", "Source", "find_source"]

SOURCES: tuple[type[Source], ...] = (ArchiveSource, FolderSource)
"""All sources; the first that fits a path is used. A folder fits any path, and reports problems."""


def find_source(root: str | os.PathLike[str] | Source) -> Source:
    """Return the source for a path; a source is returned as it is. Nothing is read yet."""
    if isinstance(root, Source):
        return root
    path = Path(root)
    return next(source for source in SOURCES if source.fits(path))(path)
