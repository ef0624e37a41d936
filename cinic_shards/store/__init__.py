"""Stores: read and write a dataset's files by name, in a folder, an object store or a web server.

``base`` defines the interface, ``local`` is a folder, ``address`` parses URLs and ``urls`` their
parts, ``remote`` is an object store or a web server, ``web_file`` one file at a URL,
``work_folder`` a folder for unfinished files, and ``system`` calls of the operating system.
``remote`` and ``web_file`` make their requests with ``requests``: ``connection`` makes the clients,
``failures`` says why a try failed, and ``elsewhere`` keeps Ctrl-C working meanwhile.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinic_shards.errors import OptionError, StoreError, reason_of
from cinic_shards.options import checked
from cinic_shards.store.address import Address, parse_address
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
from cinic_shards.store.system import num_maps_left, sync_disk, sync_folder
from cinic_shards.store.urls import local_path
from cinic_shards.store.web_file import Answer, WebFile
from cinic_shards.store.work_folder import WorkFolder

__all__ = [
    "MAX_READ_BYTES", "TEMPORARY_SUFFIX", "Answer", "Bytes", "LocalStore", "StoreLike",
    "RemoteStore", "Store", "WebFile", "WorkFolder", "has_client", "local_path", "lock_byte",
    "lock_file", "num_maps_left", "open_store", "store_of_file", "sync_disk", "sync_folder",
]  # fmt: skip

StoreLike = str | os.PathLike[str] | Store
"""A path, a URL (see ``address.parse_address``), or an open store."""


@checked
def open_store(path: StoreLike, storage_options: Mapping[str, Any] | None = None) -> Store:
    """Open a folder or a URL as a store. Nothing is read or connected yet.

    Args:
        path: a folder, a URL, or a store, which is returned unchanged. A URL's query may hold
            options too.
        storage_options: options for a URL, listed in docs/object-storage.md. Prefer the environment
            for credentials.

    Raises:
        OptionError: the URL or an option is invalid; or options are given for a folder or an open
            store.
        StoreError: the path is relative, and the working folder has been deleted.

    Example:
        >>> open_store("shards").names()[:2]
        ['manifest.json', 'test-00000-of-00001.tar']
        >>> print(open_store("s3://bucket/cinic", {"region": "eu-west-1"}))
        s3://bucket/cinic
    """
    if isinstance(path, Store):
        if storage_options:
            raise OptionError(f"{path}: is already open; give the options when opening it")
        return path
    address = parse_address(os.fsdecode(path), storage_options)
    if isinstance(address, Address):
        return RemoteStore(address)
    try:
        return LocalStore(Path(address).absolute())  # the program may change its working folder
    except OSError as error:
        raise StoreError(address, f"the working folder is missing: {reason_of(error)}") from error
