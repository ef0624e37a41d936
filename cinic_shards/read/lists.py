"""Lists of samples that users bring: ids, indices into ``ImageFolder``, or names of files."""

import io
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError, OptionError, StoreError, few, reason_of
from cinic_shards.format import SplitInfo, parse_json, shown
from cinic_shards.read.columns import Columns
from cinic_shards.read.folder_order import folder_order
from cinic_shards.store import local_path

ListFile = str | os.PathLike[str]


def check_unique(unit: str, values: Sequence[Any]) -> None:
    """Check that a list has no value twice.

    Args:
        unit: what the values are: the option's name.
        values: the list.

    Raises:
        OptionError: a value is there twice.
    """
    if len(set(values)) < len(values):
        found = few([one for one, count in Counter(values).items() if count > 1])
        raise OptionError(f"{unit}: duplicate {unit}: {found}; give each once")


def read_indices(path: ListFile) -> list[int]:
    """Read indices: a list in JSON, a one-dimensional ``.npy``, or text with one in each line.

    Raises:
        StoreError: the file cannot be read.
        FormatError: it is none of these.
    """
    name, data = content_of(path)
    try:
        if data.startswith(b"\x93NUMPY"):
            array = np.load(io.BytesIO(data), allow_pickle=False)
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(f"an array of {array.dtype}, shape {array.shape}")
            found = array.tolist()
        elif data.lstrip().startswith(b"["):
            found = parse_json(data)
        else:
            found = [int(line) for line in data.decode().split()]
        if not {*map(type, found)} <= {int}:
            raise ValueError("a value is not an integer")
    except (ValueError, RecursionError) as error:
        raise FormatError(
            name,
            "expected indices: a list in JSON, a one-dimensional .npy of integers, or text with "
            f"one in each line ({error})",
        ) from error
    return list(found)


def read_keys(path: ListFile) -> list[str]:
    """Read keys or names of files: a list in JSON, or text with one in each line.

    Raises:
        StoreError: the file cannot be read.
        FormatError: it is neither.
    """
    name, data = content_of(path)
    try:
        if data.lstrip().startswith(b"["):
            found = parse_json(data)
        else:
            found = [line.strip() for line in data.decode().splitlines() if line.strip()]
        if not {*map(type, found)} <= {str}:
            raise ValueError("a value is not a text")
    except (ValueError, RecursionError) as error:
        raise FormatError(
            name, f"expected names: a list in JSON, or text with one in each line ({error})"
        ) from error
    return list(found)


def rows_of_indices(
    indices: Sequence[int], columns: Columns, splits: Sequence[SplitInfo]
) -> NDArray[np.int64]:
    """Return the row of each index into ``ImageFolder``, int64, shape (n,).

    Args:
        indices: the indices; with several splits, they count through all of them.
        columns: the columns of the splits' N samples.
        splits: the splits, in the order of ``ConcatDataset``.

    Raises:
        OptionError: an index is below 0, at least N, or there twice.
    """
    if wrong := [one for one in indices if not 0 <= one < len(columns)]:
        raise OptionError(
            f"indices: {len(wrong):,} of {len(indices):,} are out of range: {few(wrong)}; "
            f"{_joined(splits)} has {len(columns):,} samples, from index 0"
        )
    check_unique("indices", indices)
    return folder_order(columns, splits)[np.array(indices, np.int64)]


def rows_of_keys(
    keys: Sequence[str], columns: Columns, splits: Sequence[SplitInfo]
) -> NDArray[np.int64]:
    """Return the row of each name of a sample, int64, shape (n,).

    Args:
        keys: keys as ``split/class/stem``, or paths of files: their last three parts count, without
            ``.png``. The split, or the split and the class, may be left out.
        columns: the columns of the splits' samples.
        splits: the splits, for messages.

    Raises:
        OptionError: no sample, or more than one, has such a name; or two names mean one sample.
    """
    wanted = [key.replace("\\", "/").removesuffix(".png").split("/")[-3:] for key in keys]
    rows_of: dict[int, dict[str, list[int]]] = {}
    for num_parts in {*map(len, wanted)}:
        named: dict[str, list[int]] = rows_of.setdefault(num_parts, {})
        for row, key in enumerate(columns.keys.tolist()):
            named.setdefault("/".join(key.split("/")[-num_parts:]), []).append(row)
    found = [rows_of[len(parts)].get("/".join(parts), []) for parts in wanted]
    if wrong := [key for key, rows in zip(keys, found, strict=True) if len(rows) != 1]:
        raise OptionError(
            f"keys: {len(wrong):,} of {len(keys):,} name no sample of {_joined(splits)}, or "
            f"several: {few([shown(key) for key in wrong])}; give names as split/class/stem"
        )
    rows = np.array([row for (row,) in found], np.int64)
    check_unique("keys", columns.keys[rows].tolist())
    return rows


def rows_of_ids(
    wanted: Sequence[int] | NDArray[np.int64], known: NDArray[np.int64], name: str
) -> NDArray[np.int64]:
    """Return the row of each id, int64, shape (n,).

    Args:
        wanted: the ids.
        known: the ids of all samples of the splits that are read, ascending, shape (N,), N > 0.
        name: the splits' names, for the message.

    Raises:
        OptionError: an id is not among the known ones.
    """
    try:
        ids = np.asarray(wanted, np.int64)
        rows = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        unknown = np.sort(ids[known[rows] != ids]).tolist()
    except OverflowError:  # an id that no dataset can have
        unknown = sorted({*wanted}.difference(known.tolist()))
    if unknown:
        raise OptionError(
            f"ids: {len(unknown):,} of {len(wanted):,} are not in {name}: {few(unknown)}; "
            "give positions in the dataset, as in batch.indices and columns.ids"
        )
    return rows


def _joined(splits: Sequence[SplitInfo]) -> str:
    return "+".join(split.name for split in splits)


def content_of(path: ListFile) -> tuple[str, bytes]:
    """Read a file of this machine; return its name, for messages, and its content.

    Raises:
        StoreError: the file cannot be read.
    """
    name = os.fspath(local_path(path))
    try:
        with open(name, "rb") as file:
            return name, file.read()
    except OSError as error:
        raise StoreError(name, reason_of(error)) from error
