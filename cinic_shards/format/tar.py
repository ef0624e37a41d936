"""The tar layout: USTAR members whose bytes depend only on their names and contents."""

import itertools
import json
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError
from cinic_shards.format.fields import INDEX_NAME
from cinic_shards.format.provenance import Provenance

TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)
MAX_MEMBER_NAME = 100
"""Bytes of a header's name field. A longer path is split at a slash into prefix and name."""
MAX_MEMBER_PREFIX = 155
"""Bytes of a header's prefix field."""
MAX_MEMBER_BYTES = 8**11 - 1
"""The largest member: the size field has 11 octal digits."""

# The fields of a USTAR header: name, size in bytes, and content: mode 0644, owner and group 0,
# date 0, an ordinary file, no device. The checksum counts its own field as spaces.
HEADER_FIELDS = (
    ("name", 100, b""), ("mode", 8, b"0000644"), ("uid", 8, b"0000000"), ("gid", 8, b"0000000"),
    ("size", 12, b"0" * 11), ("mtime", 12, b"0" * 11), ("chksum", 8, b" " * 8),
    ("typeflag", 1, b"0"), ("linkname", 100, b""), ("magic", 6, b"ustar"), ("version", 2, b"00"),
    ("uname", 32, b""), ("gname", 32, b""), ("devmajor", 8, b"0000000"),
    ("devminor", 8, b"0000000"), ("prefix", 155, b""), ("padding", 12, b""),
)  # fmt: skip
_HEADER_TEMPLATE = b"".join(content.ljust(size, b"\0") for _, size, content in HEADER_FIELDS)
_SIZE_FIELD = slice(124, 135)
_CHECKSUM_FIELD = slice(148, 154)
_PREFIX_FIELD = slice(345, 500)
_OCTAL = re.compile(rb"[0-7]{11}")
_OCTAL_11 = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_OCTAL_6 = 8 ** np.arange(5, -1, -1, dtype=np.int64)


def lay_out_members(
    names: Sequence[bytes], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Lay out N consecutive tar members, with their headers but without their contents.

    Args:
        names: member names: at most 100 bytes, or a folder of at most 155 and a name of 100.
        sizes: size of each member's content in bytes, shape (N,).

    Returns:
        A uint8 buffer, zero except for the headers; and the offset of each member's content in it,
        shape (N,).

    Raises:
        FormatError: a name is too long, or a member too large.
    """
    padded = -(-sizes // TAR_BLOCK) * TAR_BLOCK
    ends = np.cumsum(padded + TAR_BLOCK)
    buffer = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    starts = ends - padded
    headers = buffer.reshape(-1, TAR_BLOCK)
    headers[starts // TAR_BLOCK - 1] = _headers(names, sizes)
    return buffer, starts


def _headers(names: Sequence[bytes], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return a USTAR header for each member, uint8, shape (N, 512)."""
    headers = np.tile(np.frombuffer(_HEADER_TEMPLATE, np.uint8), (len(names), 1))
    short = list(names)
    for row, name in enumerate(names):
        if len(name) > MAX_MEMBER_NAME:
            prefix, _, short[row] = name.rpartition(b"/")
            if len(short[row]) > MAX_MEMBER_NAME or not 0 < len(prefix) <= MAX_MEMBER_PREFIX:
                raise FormatError(name.decode(), "the name is too long for a tar member")
            headers[row, _PREFIX_FIELD][: len(prefix)] = np.frombuffer(prefix, np.uint8)
    texts = np.array(short, f"S{MAX_MEMBER_NAME}")
    headers[:, :MAX_MEMBER_NAME] = texts.view(np.uint8).reshape(-1, MAX_MEMBER_NAME)
    if (sizes > MAX_MEMBER_BYTES).any():
        row = int(np.argmax(sizes))
        raise FormatError(
            names[row].decode(),
            f"{sizes[row]:,} bytes, a tar member holds at most {MAX_MEMBER_BYTES:,} bytes",
        )
    headers[:, _SIZE_FIELD] = sizes[:, None] // _OCTAL_11 % 8 + ord("0")
    sums = headers.sum(axis=1, dtype=np.int64)
    headers[:, _CHECKSUM_FIELD] = sums[:, None] // _OCTAL_6 % 8 + ord("0")
    headers[:, _CHECKSUM_FIELD.stop] = 0
    return headers


def lay_out_samples(
    keys: Sequence[str],
    suffix: str,
    sizes: NDArray[np.int64],
    labels: Sequence[int],
    provenances: Sequence[Provenance],
    sidecars: Sequence[str],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Lay out N consecutive samples: for each its file, then its sidecars.

    Args:
        keys: ``split/class/stem`` of each sample.
        suffix: suffix of the files.
        sizes: size of each file in bytes, shape (N,).
        labels: label of each sample.
        provenances: provenance of each sample.
        sidecars: ``cls``, ``json``, both in this order, or empty.

    Returns:
        A uint8 buffer that is complete except for the files' bytes; and the offset of each file in
        it, shape (N,).

    Raises:
        FormatError: a name is too long, or a file too large.
    """
    names = [[f"{key}.{suffix}".encode() for key in keys]]
    all_sizes = [sizes]
    contents: list[list[bytes]] = []
    for sidecar in sidecars:
        if sidecar == "cls":
            contents.append([str(label).encode() for label in labels])
        else:
            contents.append([
                sidecar_json(key, label, provenance)
                for key, label, provenance in zip(keys, labels, provenances, strict=True)
            ])  # fmt: skip
        names.append([key.encode() + b"." + sidecar.encode() for key in keys])
        all_sizes.append(np.array([len(content) for content in contents[-1]], np.int64))

    member_names = [name for sample in zip(*names, strict=True) for name in sample]
    buffer, starts = lay_out_members(member_names, np.stack(all_sizes, axis=1).ravel())
    starts = starts.reshape(len(keys), -1)
    view = buffer.data
    for column, sidecar_contents in enumerate(contents, 1):
        for start, content in zip(starts[:, column].tolist(), sidecar_contents, strict=True):
            view[start : start + len(content)] = content
    return buffer, np.ascontiguousarray(starts[:, 0])


def find_index(shard: NDArray[np.uint8], location: str) -> tuple[int, int]:
    """Find the index of a shard by going from header to header.

    Args:
        shard: the file, uint8, one-dimensional.
        location: the shard's location, for messages.

    Returns:
        Offset and size of the index's content, in bytes.

    Raises:
        FormatError: the file is not a tar of this layout, or has no index.
    """
    at = 0
    name = f"{INDEX_NAME}\0".encode()
    while at + TAR_BLOCK <= len(shard):
        header = shard[at : at + TAR_BLOCK].tobytes()
        if not _OCTAL.fullmatch(header[_SIZE_FIELD]):
            break
        size = int(header[_SIZE_FIELD], 8)
        if header.startswith(name):
            if at + TAR_BLOCK + size > len(shard):
                raise FormatError(location, f"its index, at offset {at}, extends beyond the file")
            return at + TAR_BLOCK, size
        at += TAR_BLOCK - (-size // TAR_BLOCK) * TAR_BLOCK
    raise FormatError(location, f"no member {INDEX_NAME} up to offset {at}; the file is damaged")


def describe_byte(members: NDArray[np.uint8], at: int) -> str:
    """Describe a byte of intact tar members for a message: ``the mtime of the header of a.cls``.

    Args:
        members: consecutive members from a header on, uint8, one-dimensional.
        at: position of the byte in ``members``.
    """
    start = 0
    while True:
        header = members[start : start + TAR_BLOCK].tobytes()
        if not header.strip(b"\0"):
            return "the end of the archive"
        size = int(header[_SIZE_FIELD], 8)
        end = start + TAR_BLOCK - (-size // TAR_BLOCK) * TAR_BLOCK
        if at < end:
            break
        start = end
    name = header[:MAX_MEMBER_NAME].rstrip(b"\0")
    if prefix := header[_PREFIX_FIELD].rstrip(b"\0"):
        name = prefix + b"/" + name
    at -= start + TAR_BLOCK
    if at >= size:
        return f"the padding of {name.decode()}"
    if at >= 0:
        return f"the content of {name.decode()}"
    at += TAR_BLOCK
    ends = itertools.accumulate(size for _, size, _ in HEADER_FIELDS)
    field = next(name for (name, *_), end in zip(HEADER_FIELDS, ends, strict=True) if at < end)
    return f"the {field} of the header of {name.decode()}"


def one_member(name: str, content: bytes) -> bytes:
    """Return a tar member with its header and padding."""
    buffer, starts = lay_out_members([name.encode()], np.array([len(content)]))
    start = int(starts[0])
    buffer[start : start + len(content)] = np.frombuffer(content, np.uint8)
    return buffer.tobytes()


def sidecar_json(key: str, label: int, provenance: Provenance) -> bytes:
    """Return a sample's ``.json`` sidecar; every sample has the same keys and types."""
    values = {
        "key": key,
        "class": key.split("/")[1],
        "label": label,
        "origin": provenance.origin,
        "synset": provenance.synset,
        "number": provenance.number,
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
