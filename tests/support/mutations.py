"""Change any part of a packed dataset, and make its digests right again."""

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

import cinic_shards.format as fmt
from cinic_shards.format import MANIFEST_NAME

Path_ = tuple[Any, ...]
"""Names and positions that lead to a part of nested dicts and lists."""


def read_document(shards: Path) -> Any:
    """Return the manifest's content."""
    return json.loads((shards / MANIFEST_NAME).read_bytes())


def write_document(shards: Path, content: Any) -> None:
    """Write a manifest with a right digest."""
    write_text(shards, json.dumps(content, ensure_ascii=False, indent=1))


def write_text(shards: Path, text: str) -> None:
    """Write a manifest with a right digest, from any text with a digest in it."""
    (shards / MANIFEST_NAME).write_bytes(seal(text.encode("utf-8", "surrogatepass")))


def seal(data: bytes) -> bytes:
    """Replace the digits of the first digest by the right ones."""
    head, mark, rest = data.partition(b'"sha256:')
    if not mark:
        return data
    digest = hashlib.sha256(head + mark + b"0" * 64 + rest[64:]).hexdigest().encode()
    return head + mark + digest + rest[64:]


def entry(content: Any, name: str) -> Any:
    """Return the entry of a shard in the manifest's content."""
    shards = [shard for split in content["splits"] for shard in split["shards"]]
    return next(shard for shard in shards if shard["name"] == name)


def read_index(shards: Path, name: str) -> bytes:
    """Return a shard's index as stored."""
    info = entry(read_document(shards), name)
    start = info["index_offset"]
    return (shards / name).read_bytes()[start : start + info["index_length"]]


def write_index(shards: Path, name: str, index: bytes) -> None:
    """Replace a shard's index."""
    start = entry(read_document(shards), name)["index_offset"] - fmt.TAR_BLOCK
    head = (shards / name).read_bytes()[:start]
    write_shard(shards, name, head + fmt.one_member(fmt.INDEX_NAME, index) + fmt.TAR_END, index)


def write_shard(shards: Path, name: str, data: bytes, index: bytes | None = None) -> None:
    """Replace a shard, and perhaps the index that the manifest describes."""
    content = read_document(shards)
    info = entry(content, name)
    (shards / name).write_bytes(data)
    info |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if index is not None:
        info |= {"index_length": len(index), "index_sha256": hashlib.sha256(index).hexdigest()}
    write_document(shards, content)


def parts(content: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Yield the path and value of each part of a document, containers included."""
    yield path, content
    if isinstance(content, dict | list):
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from parts(value, (*path, name))


def part(content: Any, path: Path_) -> Any:
    """Return the part at a path."""
    for name in path:
        content = content[name]
    return content


def changed(content: Any, path: Path_, value: Any) -> Any:
    """Return a copy of a document with a different part."""
    if not path:
        return value
    out = copy.deepcopy(content)
    part(out, path[:-1])[path[-1]] = value
    return out


def pack_pairs(pairs: list[tuple[Any, Any]]) -> bytes:
    """Pack a msgpack map of these pairs, whose names may be equal."""
    packer = msgpack.Packer(use_bin_type=True)
    return b"".join(
        [
            packer.pack_map_header(len(pairs)),
            *(packer.pack(part) for pair in pairs for part in pair),
        ]
    )
