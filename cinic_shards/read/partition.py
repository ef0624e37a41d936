"""Partitions: disjoint parts of a dataset's samples, such as the clients of federated learning."""

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError, OptionError, StoreError, few, reason_of
from cinic_shards.format import parse_json, shown
from cinic_shards.options import did_you_mean
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.folder_order import folder_order
from cinic_shards.read.lists import ListFile, content_of
from cinic_shards.store import local_path, store_of_file

_FORMAT = "cinic-shards partition"
_VERSION = 1

PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_WRONG = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""Errors from a value of the wrong type."""


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """Disjoint parts of the samples of one dataset; see ``partition``.

    It fits all datasets with the same fingerprint: the same files in another encoding, too.

    Example:
        >>> parts = partition("shards", "iid", parts=4)
        >>> parts.write("parts.json")
        >>> Partition.read("parts.json").sizes
        {'0': 23, '1': 23, '2': 22, '3': 22}
        >>> parts.ids(3)[:4].tolist()
        [95, 97, 100, 103]
    """

    fingerprint: str
    """The dataset's fingerprint."""
    split: str
    """Split of the samples, or several as in ``train+valid``."""
    options: Mapping[str, Any]
    """How the parts were made, as JSON values."""
    parts: Mapping[str, NDArray[np.int64]]
    """Name -> ids of its samples, ascending, int64, shape (n,)."""

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    @property
    def sizes(self) -> dict[str, int]:
        """Name -> number of samples."""
        return {name: len(ids) for name, ids in self.parts.items()}

    @property
    def num_samples(self) -> int:
        """Number of samples of all parts."""
        return sum(map(len, self.parts.values()))

    def ids(self, part: int | str) -> NDArray[np.int64]:
        """Return the ids of a part, ascending, int64, shape (n,).

        Args:
            part: its name, or its number.

        Raises:
            OptionError: there is no such part.
        """
        name = str(part)
        if name not in self.parts:
            known = list(self.parts)
            hint = did_you_mean(name, known)
            raise OptionError(f"no part {name!r} of {len(known):,}: {few(known)}{hint}")
        return self.parts[name]

    def check_dataset(self, dataset: Dataset) -> None:
        """Check that this is a partition of a dataset.

        Raises:
            OptionError: it was made for another dataset.
        """
        if self.fingerprint != dataset.manifest.fingerprint:
            raise OptionError(
                f"the partition belongs to another dataset, with fingerprint {self.fingerprint}; "
                f"{dataset.store} has {dataset.manifest.fingerprint}: make a new partition of it"
            )

    def count(self, dataset: Dataset) -> NDArray[np.int64]:
        """Return the number of samples of each class in each part, shape (parts, classes).

        Raises:
            OptionError: the partition belongs to another dataset.
            StoreError, FormatError: an index cannot be read.
        """
        self.check_dataset(dataset)
        columns = dataset.columns_of(self.split)
        num_classes = len(dataset.manifest.classes)
        counts = np.empty((len(self), num_classes), np.int64)
        for row, ids in zip(counts, self.parts.values(), strict=True):
            labels = columns.labels[np.searchsorted(columns.ids, ids)]
            row[:] = np.bincount(labels, minlength=num_classes)
        return counts

    def write(self, path: ListFile) -> None:
        """Write a JSON file; the same partition gives the same bytes on every machine.

        Raises:
            OutputError: the file cannot be written.
        """
        head = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "split": self.split,
            "options": dict(self.options),
            "num_samples": self.num_samples,
        }
        text = json.dumps(head, indent=1)[:-2] + ',\n "parts": {\n'
        rows = (f"  {json.dumps(name)}: {_listed(ids)}" for name, ids in self.parts.items())
        _write(path, text + ",\n".join(rows) + "\n }\n}\n")

    @classmethod
    def read(cls, path: ListFile) -> "Partition":
        """Read a file that ``write`` has written.

        Raises:
            StoreError: the file cannot be read.
            FormatError: it is not such a file, is damaged, or has an id in two parts.
        """
        name = os.fspath(local_path(path))
        try:
            state = os.stat(name)
        except OSError as error:
            raise StoreError(name, reason_of(error)) from error
        return _read(name, state.st_mtime_ns, state.st_size)

    def indices(self, dataset: Dataset) -> dict[str, NDArray[np.int64]]:
        """Return each part as ascending indices into ``ImageFolder``, int64, shape (n,).

        With several splits, they count through all of them, as ``ConcatDataset`` does.

        Raises:
            OptionError: the partition belongs to another dataset.
            StoreError, FormatError: an index cannot be read.
        """
        self.check_dataset(dataset)
        columns = dataset.columns_of(self.split)
        order = folder_order(columns, dataset.splits(self.split))
        index_of = np.empty(len(order), np.int64)
        index_of[order] = np.arange(len(order))
        return {
            name: np.sort(index_of[np.searchsorted(columns.ids, ids)])
            for name, ids in self.parts.items()
        }

    def write_indices(self, path: ListFile, dataset: Dataset) -> None:
        """Write indices into ``ImageFolder``, in a form that other libraries read.

        Args:
            path: ``.json``: an object of lists; ``.txt``: FedML's ``net_dataidx_map.txt``.
            dataset: the partition's dataset.

        Raises:
            OptionError: the name ends differently, or the partition belongs to another dataset.
            OutputError: the file cannot be written.
            StoreError, FormatError: an index of the dataset cannot be read.
        """
        suffix = local_path(path).suffix.lower()
        if suffix not in (".json", ".txt"):
            raise OptionError(f"{path}: expected a name that ends with .json or .txt")
        indices = self.indices(dataset)
        if suffix == ".json":
            rows = (f"{json.dumps(name)}: {_listed(one)}" for name, one in indices.items())
            _write(path, "{\n" + ",\n".join(rows) + "\n}\n")
        else:
            _write(path, _as_fedml(indices))

    @classmethod
    def read_indices(cls, path: ListFile, dataset: Dataset, split: str = "train") -> "Partition":
        """Read a partition that others have published: indices into ``ImageFolder``.

        Args:
            path: an object or list of lists in JSON, or FedML's ``net_dataidx_map.txt``.
            dataset: the dataset.
            split: the split that the indices count, or several as in ``train+valid``.

        Raises:
            StoreError: the file, or an index of the dataset, cannot be read.
            FormatError: it has none of these forms, or an index is in two parts or out of range.
            OptionError: there is no such split.
        """
        name, data = content_of(path)
        indices = _parsed_indices(name, data)
        columns = dataset.columns_of(split)
        order = folder_order(columns, dataset.splits(split))
        for part, numbers in indices.items():
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(order):
                wrong = numbers[(numbers < 0) | (numbers >= len(order))]
                raise FormatError(
                    name, f"part {part!r}: index {wrong[0]}; {split} has {len(order):,} samples, "
                    "from index 0"
                )  # fmt: skip
        parts = {part: columns.ids[order[numbers]] for part, numbers in indices.items()}
        split = "+".join(one.name for one in dataset.splits(split))
        options = {"scheme": "read from indices"}
        return _checked(name, cls(dataset.manifest.fingerprint, split, options, parts))


def part_ids(
    partition: Partition | ListFile, part: int | str, dataset: Dataset
) -> NDArray[np.int64]:
    """Return the ids of a part of a dataset, ascending, int64, shape (n,).

    Raises:
        OptionError: there is no such part, or the partition belongs to another dataset.
        StoreError, FormatError: the partition's file cannot be read.
    """
    found = partition if isinstance(partition, Partition) else Partition.read(partition)
    found.check_dataset(dataset)
    return found.ids(part)


@functools.lru_cache(maxsize=8)
def _read(name: str, modified: int, size: int) -> Partition:
    """Read a file once for all clients that it lists."""
    try:
        content = parse_json(content_of(name)[1])
    except (ValueError, RecursionError) as error:
        raise FormatError(name, f"not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise FormatError(
            name,
            "not a file of cinic-shard partition; if it holds indices, convert it with "
            "cinic-shard partition SHARDS --from-indices FILE -o parts.json",
        )
    if content.get("version") != _VERSION:
        raise FormatError(
            name,
            f"has version {shown(content.get('version'))}; this release reads {_VERSION}: "
            "upgrade cinic-shards",
        )
    try:
        fingerprint, split, options = (content[k] for k in ("fingerprint", "split", "options"))
        if not (isinstance(fingerprint, str) and isinstance(split, str)):
            raise TypeError
        parts = {part: _as_numbers(numbers) for part, numbers in content["parts"].items()}
        found = Partition(fingerprint, split, dict(options), parts)
        if content["num_samples"] != found.num_samples:
            raise ValueError
    except _WRONG as error:
        raise FormatError(
            name, "damaged: a field is missing or has a wrong value; write it again"
        ) from error
    return _checked(name, found)


def _checked(name: str, partition: Partition) -> Partition:
    """Return the partition with sorted parts, after checking that they are disjoint."""
    if not partition.parts:
        raise FormatError(name, "has no parts")
    for part in partition.parts:
        if not PART_NAME.fullmatch(part):
            raise FormatError(name, f"part {part!r}: expected letters, digits, _ - and .")
    ids = np.sort(np.concatenate(list(partition.parts.values())))
    repeated = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if len(repeated):
        holders = [part for part, one in partition.parts.items() if repeated[0] in one]
        raise FormatError(
            name,
            f"{len(repeated):,} samples are listed twice: id {repeated[0]} in part "
            f"{' and '.join(dict.fromkeys(holders))}",
        )
    parts = {part: np.sort(one) for part, one in partition.parts.items()}
    return Partition(partition.fingerprint, partition.split, partition.options, parts)


def _parsed_indices(name: str, data: bytes) -> dict[str, NDArray[np.int64]]:
    try:
        quoted = re.sub(r"(?m)^(\s*)(\d+)(\s*:)", r'\1"\2"\3', data.decode())  # FedML's names
        content = parse_json(quoted.encode())
        if isinstance(content, list):
            content = {str(number): one for number, one in enumerate(content)}
        return {part: _as_numbers(numbers) for part, numbers in content.items()}
    except (*_WRONG, RecursionError) as error:
        raise FormatError(
            name,
            f"expected lists of indices in JSON, or FedML's net_dataidx_map.txt ({error})",
        ) from error


def _as_fedml(indices: Mapping[str, NDArray[np.int64]]) -> str:
    """Format indices for FedML, which reads a line of numbers after that with a part's name."""
    if wrong := [name for name in indices if not name.isdecimal()]:
        raise OptionError(f"part {wrong[0]!r}: FedML's form has numbered parts only; choose .json")
    lines = [f"{name}: [\n{_listed(one)[1:-1]}" for name, one in indices.items()]
    return "{\n" + "\n],\n".join(line.rstrip("\n") for line in lines) + "\n]\n}\n"


def _as_numbers(values: Iterable[Any]) -> NDArray[np.int64]:
    numbers = list(values)
    if not {*map(type, numbers)} <= {int}:
        raise TypeError("a value is not an integer")
    return np.array(numbers, np.int64).reshape(len(numbers))


def _listed(numbers: NDArray[np.int64]) -> str:
    return json.dumps(numbers.tolist(), separators=(",", ":"))


def _write(path: ListFile, text: str) -> None:
    out = local_path(path)
    with store_of_file(out).create(out.name) as file:
        file.write(text.encode())
