"""Open what stands in a store: the manifest, a shard, its index."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, MissingError, StoreError
from cinic_shards.format import Index, Manifest, ShardInfo
from cinic_shards.store.base import Store


def read_manifest(store: Store) -> Manifest:
    """The manifest of the dataset that a store holds.

    Raises:
        StoreError: it holds none.
        FormatError: it is damaged or needs a newer release.
    """
    try:
        data = store.read(fmt.MANIFEST_NAME)
    except MissingError as error:
        raise _no_dataset(store, error) from error
    return Manifest.from_bytes(data, location=f"{store}/{fmt.MANIFEST_NAME}", encodings=ENCODINGS)


def _no_dataset(store: Store, error: MissingError) -> StoreError:
    """What to say where a manifest is missing."""
    if not store.can_list:
        return StoreError(
            error.location,
            f"{error.reason}; a web server does not list its files: give the URL of "
            f"the folder that holds {fmt.MANIFEST_NAME}",
        )
    names = store.names()
    if fmt.MANIFEST_NAME in names:  # a link that leads nowhere
        return error
    if is_packing(store, names):
        return StoreError(str(store), "packing did not finish; run the same command again")
    found = f"holds {names[0]}, but no {fmt.MANIFEST_NAME}" if names else "no dataset"
    hint = "give a folder that cinic-shard pack has written"
    if any(fmt.parse_shard_name(name) for name in names):
        hint = "cinic-shard reindex makes it anew from the shards"
    return StoreError(str(store), f"{found}; {hint}")


def is_packing(store: Store, names: Sequence[str]) -> bool:
    """Whether a job that did not finish has left something there.

    Args:
        store: where.
        names: what it holds; some object stores keep naming a folder that was emptied.
    """
    return fmt.PACKING_FOLDER in names and (
        store.is_local or bool(store.folder(fmt.PACKING_FOLDER).names())
    )


def open_shard(
    store: Store, shard: ShardInfo, num_classes: int, *, read_ahead: bool = False
) -> tuple[NDArray[np.uint8], Index]:
    """A shard's bytes, as ``Store.map`` gives them, and its index.

    Raises:
        StoreError: it cannot be read, or has another size.
        FormatError: its index is damaged, or not what the manifest says.
    """
    memory = store.map(shard.name, shard.size, read_ahead=read_ahead)
    data = memory[shard.index_offset : shard.index_offset + shard.index_length].tobytes()
    return memory, _parse_index(store, shard, num_classes, data)


def read_index(store: Store, shard: ShardInfo, num_classes: int) -> Index:
    """A shard's index, and no other byte of it.

    Raises:
        StoreError: it cannot be read.
        FormatError: it is damaged, or not what the manifest says.
    """
    stop = shard.index_offset + shard.index_length
    data = bytes(store.read_range(shard.name, shard.index_offset, stop))
    return _parse_index(store, shard, num_classes, data)


def _parse_index(store: Store, shard: ShardInfo, num_classes: int, data: bytes) -> Index:
    place = f"{store}/{shard.name}"
    if (found := hashlib.sha256(data).hexdigest()) != shard.index_sha256:
        raise FormatError(
            place,
            f"its index has SHA-256 {found}, the manifest says {shard.index_sha256}; "
            "the file is damaged, fetch it again",
        )
    place = f"{place}: index"
    index = Index.from_bytes(
        data, location=place, end=shard.index_offset, num_classes=num_classes, encodings=ENCODINGS
    )
    if len(index) != shard.num_samples:
        raise FormatError(place, f"{len(index)} samples, the manifest says {shard.num_samples}")
    return index
