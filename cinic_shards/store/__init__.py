"""Bytes by name: where a dataset's files are read from and written to.

``base`` says what a store is, ``local`` is a folder, ``address`` parses URLs, and ``remote`` is an
object store or a web server: the only file that touches a network.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinic_shards.errors import OptionError
from cinic_shards.store.address import parse_address
from cinic_shards.store.base import MAX_READ_BYTES, Bytes, Store
from cinic_shards.store.connection import has_client
from cinic_shards.store.local import (
    TEMPORARY_SUFFIX,
    LocalStore,
    lock_byte,
    lock_file,
    store_of_file,
)
from cinic_shards.store.remote import RemoteStore
from cinic_shards.store.web_file import Answer, WebFile

__all__ = [
    "MAX_READ_BYTES", "TEMPORARY_SUFFIX", "Answer", "Bytes", "LocalStore", "StoreLike",
    "RemoteStore", "Store", "WebFile", "has_client", "lock_byte", "lock_file", "open_store",
    "store_of_file",
]  # fmt: skip

StoreLike = str | os.PathLike[str] | Store
"""A path, a URL (see ``address.parse_address``), or a store that was opened with options."""


def open_store(path: StoreLike, storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store at a place; a store is given back as it is. Nothing is read or connected yet.

    Args:
        path: a folder or a URL; a URL's query gives options too.
        storage_options: how to reach a URL: docs/object-storage.md lists them. Credentials are
            better left to the environment.

    Raises:
        OptionError: the place or an option cannot be.
    """
    if isinstance(path, Store):
        if storage_options:
            raise OptionError(f"{path}: it is open already; give it its options when it is opened")
        return path
    address = parse_address(os.fspath(path), storage_options)
    return LocalStore(Path(address)) if isinstance(address, str) else RemoteStore(address)
