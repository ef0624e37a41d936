"""Sources of images, which give records: one file for each source, and their registry."""

import os

from cinic_shards.errors import OptionError
from cinic_shards.format import SPLIT_NAME
from cinic_shards.store import local_path
from cinic_shards.tree.archive import ArchiveSource
from cinic_shards.tree.folder import FolderSource
from cinic_shards.tree.records import Source

__all__ = ["SOURCES", "Source", "find_source"]

SOURCES: tuple[type[Source], ...] = (ArchiveSource, FolderSource)
"""All sources; the first that fits a path is used. A folder fits any path, and reports problems."""


def find_source(root: str | os.PathLike[str] | Source, split_name: str | None = None) -> Source:
    """Return the source for a path; a source is returned as it is. Nothing is read yet.

    Args:
        root: a path or a source.
        split_name: see ``Source.split_name``.

    Raises:
        OptionError: this cannot be the name of a split, ``root`` is a source, or is a URL.
    """
    if split_name is not None and not SPLIT_NAME.fullmatch(split_name):
        raise OptionError(
            f"split name {split_name!r}: expected letters, digits, '_', '-' and '.', not starting "
            "with '-', '.' or '__'"
        )
    if isinstance(root, Source):
        if split_name is not None:
            raise OptionError("split_name is for a folder or an archive, not for a source")
        return root
    path = local_path(root)
    return next(source for source in SOURCES if source.fits(path))(path, split_name)
