"""Give a shard an index with false values and correct digests."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS
from cinic_shards.format import MANIFEST_NAME, Index
from cinic_shards.read.dataset import Dataset

Change = Callable[[Index], Index]


def rewrite_index(shards: Path, change: Change) -> None:
    """Change the index of the second shard of ``train``, and update its size and digests."""
    manifest = Dataset(shards).manifest
    (split,) = (split for split in manifest.splits if split.name == "train")
    old = split.shards[1]
    path = shards / old.name
    data = path.read_bytes()
    index = Index.from_bytes(
        data[old.index_offset : old.index_offset + old.index_length],
        location="",
        end=old.size,
        num_classes=10,
        encodings=ENCODINGS,
    )
    index_bytes = change(index).to_bytes()
    data = data[: old.index_offset - 512] + fmt.one_member("__index__", index_bytes) + fmt.TAR_END
    path.write_bytes(data)
    new = replace(
        old,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index_length=len(index_bytes),
        index_sha256=hashlib.sha256(index_bytes).hexdigest(),
    )
    infos = (split.shards[0], new, *split.shards[2:])
    splits = tuple(replace(s, shards=infos) if s.name == "train" else s for s in manifest.splits)
    (shards / MANIFEST_NAME).write_bytes(replace(manifest, splits=splits).to_bytes())


def with_value(column: str, row: int | slice, value: int) -> Change:
    """Set one value of a column, or those of several rows."""

    def change(index: Index) -> Index:
        values = getattr(index, column).copy()
        values[row] = value
        return replace(index, **{column: values})

    return change


def with_key(row: int, key: str) -> Change:
    """Set one key."""
    return lambda index: replace(index, keys=[*index.keys[:row], key, *index.keys[row + 1 :]])
