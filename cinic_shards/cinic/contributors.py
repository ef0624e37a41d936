"""The list of the ImageNet images in a CINIC-10, ``imagenet-contributors.csv``.

The format is that of the authors' notebook ``list-imagenet-contributors``
(https://github.com/BayesWatch/cinic-10): the header ``synset, image_num, cinic_set, class``, and
rows such as ``n02691156, 10025, train, airplane``.
"""

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

import cinic_shards.format as fmt
from cinic_shards.errors import FormatError, StoreError, problem_lines, reason_of
from cinic_shards.format.provenance import parse_stem
from cinic_shards.options import checked
from cinic_shards.read.columns import Columns
from cinic_shards.read.open import read_manifest
from cinic_shards.store import StoreLike, local_path, open_store, store_of_file

HEADER = ("synset", "image_num", "cinic_set", "class")
_SETS = ("train", "valid", "test")
"""In the authors' order."""
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class Contributor(NamedTuple):
    """One ImageNet image in CINIC-10."""

    synset: str
    """Such as ``n02691156``."""
    number: int
    """The image's number in its synset."""
    split: str
    class_name: str


@checked
def list_contributors(path: StoreLike) -> list[Contributor]:
    """List every ImageNet image of a dataset; only indexes are read.

    The list is sorted by split (train, valid, test, then others by name), class, synset and number.

    Raises:
        StoreError, FormatError: the dataset cannot be read, or is damaged.
    """
    store = open_store(path)
    manifest = read_manifest(store)
    columns = Columns.read(store, manifest, manifest.splits)
    rows = np.flatnonzero(columns.origin == "imagenet")
    names = sorted({split.name for split in manifest.splits} - set(_SETS))
    position_of = {name: position for position, name in enumerate((*_SETS, *names))}
    for split in manifest.splits:
        for name in {name for shard in split.shards for name in shard.classes}:
            if problem := fmt.key_problem(f"{split.name}/{name}/x", split.name):
                raise FormatError(str(store), f"class {fmt.shown(name)}: {problem}")
    found = [
        Contributor(synset, number, split, manifest.classes[label])
        for synset, number, split, label in zip(
            columns.synset[rows].tolist(),
            columns.number[rows].tolist(),
            columns.split[rows].tolist(),
            columns.labels[rows].tolist(),
            strict=True,
        )
    ]
    found.sort(key=lambda one: (position_of[one.split], one.class_name, one.synset, one.number))
    return found


def write_contributors(contributors: list[Contributor], file: TextIO) -> None:
    """Write the list; lines end with a line feed only."""
    file.write(", ".join(HEADER) + "\n")
    for one in contributors:
        file.write(", ".join((one.synset, str(one.number), *map(_quoted, one[2:]))) + "\n")


@checked
def save_contributors(contributors: list[Contributor], path: str | os.PathLike[str]) -> None:
    """Write the list to a file; an existing file is replaced when all of it is written.

    Raises:
        OutputError: it cannot be written.
    """
    path = local_path(path)
    store, text = store_of_file(path), io.StringIO()
    write_contributors(contributors, text)
    with store.create(path.name) as file:
        file.write(text.getvalue().encode())


def _quoted(name: str) -> str:
    """Quote a class's name if it needs quotes; it may be any text."""
    if name == name.strip() and not set(name) & set(',"'):
        return name
    return '"' + name.replace('"', '""') + '"'


@checked
def read_contributors(path: str | os.PathLike[str]) -> list[Contributor]:
    """Read a list, in the order of its lines; spaces around values and empty lines are ignored.

    Raises:
        StoreError: it cannot be read.
        FormatError: it is not such a list; names each bad line by its number.
    """
    path = local_path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, skipinitialspace=True, strict=True)
            return list(_parsed(path, rows))
    except OSError as error:
        raise StoreError(str(path), reason_of(error)) from error
    except UnicodeDecodeError as error:
        raise FormatError(str(path), f"not UTF-8 text ({error.reason})") from error
    except csv.Error as error:
        raise FormatError(str(path), f"not comma-separated values ({error})") from error


def _parsed(path: Path, rows: Any) -> Iterator[Contributor]:
    header = tuple(value.strip() for value in next(rows, []))
    if header != HEADER:
        found = fmt.shown(", ".join(header))
        raise FormatError(str(path), f"line 1: {found}, expected the header {', '.join(HEADER)}")
    problems: list[str] = []
    lines: dict[Contributor, int] = {}
    for row in rows:
        if not any(value.strip() for value in row):
            continue
        one = _contributor([value.strip() for value in row])
        if isinstance(one, str):
            problems.append(f"line {rows.line_num}: {one}")
        elif one in lines:
            problems.append(f"line {rows.line_num}: the same as line {lines[one]}")
        else:
            lines[one] = rows.line_num
    if problems:
        listed = problem_lines(problems)
        raise FormatError(str(path), f"{len(problems):,} bad lines{listed}")
    yield from lines


def _contributor(values: list[str]) -> Contributor | str:
    """Parse a line; return the image, or what is wrong with the line."""
    if len(values) != len(HEADER):
        return f"{len(values)} values, expected {', '.join(HEADER)}"
    synset, number, split, class_name = values
    if not _NUMBER.fullmatch(number):
        return f"image_num is {fmt.shown(number)}, expected digits"
    stem = f"{synset}_{number}"
    if parse_stem(stem).origin != "imagenet":
        return f"synset is {fmt.shown(synset)}, expected n and eight digits"
    if not fmt.SPLIT_NAME.fullmatch(split):
        return f"cinic_set is {fmt.shown(split)}, expected a split's name such as train"
    if problem := fmt.key_problem(f"{split}/{class_name}/{stem}", split):
        return f"class is {fmt.shown(class_name)}: {problem}"
    return Contributor(synset, int(number), split, class_name)
