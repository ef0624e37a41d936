"""Each field of a manifest, of an index and of a tar header is compared with something.

The fields are those that a dataset has, not a list: a new field without a check fails here. Each is
changed, the digests are made right again, and ``verify`` must name it; so must ``verify --quick``
and ``reindex``, except what docs/format.md lists. That table must have all fields, too.
"""

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import cinic_shards.format as fmt
from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import CinicShardsError
from cinic_shards.format.tar import HEADER_FIELDS
from cinic_shards.read.subset import Subset
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.select import select
from tests.support import ROOT
from tests.support.mutations import (
    Path_,
    changed,
    parts,
    read_document,
    read_index,
    write_document,
    write_index,
    write_shard,
)
from tests.support.odd_pngs import RGB, encode_png

SHARD = "train-00000-of-00002.tar"
ROW = 1

DATASETS = ["png with all sidecars", "raw", "zstd without a class"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Datasets in each encoding, one with both sidecars, one whose indexes state the classes."""
    root = tmp_path_factory.mktemp("fields")
    chance = np.random.default_rng(0)
    for split in ("train", "valid"):
        for name in ("cat", "dog", "owl"):
            for number in range(3):
                stem = ["x", "n02121808_7", "cifar10-train-4"][number] + f"{number}"
                path = root / "tree" / split / name / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(chance.integers(0, 256, (3, 4, 3)), RGB, 8))
    for name in ("raw", "zstd", DATASETS[0]):
        encoding = name.split()[0]
        sidecars = ("cls", "json") if encoding == "png" else ()
        options = PackOptions(encoding=encoding, shard_size=5, block_size=2, sidecars=sidecars)
        pack(root / "tree", root / name, options, workers=1, warn=lambda text: None)
    select(
        root / "zstd", root / DATASETS[2], subset=Subset(classes=["cat", "owl"]), shard_size=5,
        workers=1, warn=lambda text: None,
    )  # fmt: skip
    return {name: root / name for name in DATASETS}


def of_datasets(*quick: str) -> pytest.MarkDecorator:
    """Run a test on these datasets in ``make test``, on all in ``make test-real``."""
    params = [name if name in quick else pytest.param(name, marks=pytest.mark.real)
              for name in DATASETS]  # fmt: skip
    return pytest.mark.parametrize("shards", params, indirect=True)


@pytest.fixture
def shards(request: pytest.FixtureRequest, datasets: dict[str, Path], tmp_path: Path) -> Path:
    """A dataset to change."""
    return Path(shutil.copytree(datasets[request.param], tmp_path / "shards"))


def restored(shards: Path) -> Callable[[], None]:
    """Return a function that restores all files."""
    files = {path: path.read_bytes() for path in shards.iterdir()}

    def restore() -> None:
        for path, data in files.items():
            path.write_bytes(data)

    return restore


def said_by(shards: Path, *, quick: bool) -> str:
    """All faults that ``verify`` finds, as text."""
    return "\n".join(map(str, verify(shards, quick=quick, workers=1).faults))


def is_accepted(shards: Path) -> bool:
    """True if ``reindex`` makes a manifest."""
    try:
        reindex(shards, workers=1)
    except CinicShardsError:
        return False
    return True


# --- The manifest -----------------------------------------------------------------------------

INFORMATION = [("libraries",), ("licence",), ("citation",), ("options", "parent")]
"""Parts that nothing in a dataset proves: any content of the right type is accepted."""

MANIFEST_WORDS = {
    "format": "not a manifest",
    "required_features": "needs|required_features",
    "classes": "classes|label",
    "first_id": "starts at id|first_id",
    "num_samples": "samples|num_samples",
    "size": "bytes|size",
    "sha256": "SHA-256|sha256",
    "index_offset": "its index|index_offset",
    "index_length": "its index|index_length",
    "index_sha256": "its index|SHA-256|index_sha256",
    "splits": "split|num_samples",
    "image_sizes": "image_sizes|images of one size",
}
"""Field -> how a fault names it, if not by its name."""

MANIFEST_QUICK = {"pixel_sums": "mean|pixel_sums", "pixel_square_sums": "std|pixel_square_sums"}
"""The same for ``verify --quick``, which finds what contradicts pixels without decoding them."""


def other_values(value: Any) -> Iterator[Any]:
    """Values of the same type, or with a part more or less."""
    if isinstance(value, bool) or value is None:
        yield 1
    elif isinstance(value, int):
        yield from (value + 1, float(value))
    elif isinstance(value, float):
        yield from (value + 0.001, value * (1 + 1e-9))
    elif isinstance(value, str):
        yield value[:-1] + ("1" if value.endswith("0") else "0")
    elif isinstance(value, list):
        yield [*value, *(value[:1] or ["x"])]
        if value:
            yield value[:-1]
    elif isinstance(value, dict):
        yield {**value, "zebra": 7}
        for name in value:
            yield {one: value[one] for one in value if one != name}


def field_of(path: Path_, old: Any, new: Any) -> str:
    """The name of the field that was changed."""
    if isinstance(old, dict):
        names = set(old) ^ set(new)
        return str(*names)
    return [name for name in path if isinstance(name, str)][-1]


@of_datasets("png with all sidecars")
def test_every_field_of_the_manifest_is_compared(shards: Path) -> None:
    content = read_document(shards)
    missed = []
    for path, value in parts(content):
        others = {("splits", 1), ("shards", 1)} & {*itertools.pairwise(path)}
        if path in ((), ("digest",)) or others:
            continue  # the digest is made right again; all splits and shards have the same fields
        is_free = any(path[: len(one)] == one for one in INFORMATION)
        for number, new in enumerate(other_values(value)):
            write_document(shards, changed(content, path, new))
            field = field_of(path, value, new)
            for quick in (True, False)[: 1 if number else 2]:  # quick is enough for the others
                said = said_by(shards, quick=quick)
                is_information = is_free or (*path, field) in INFORMATION
                if is_information and said == "" and type(new) is type(value):
                    continue
                # A count's name, such as a class, is a field too; so is "classes".
                words = {field, *(name for name in path[3:] if isinstance(name, str))}
                words |= {*MANIFEST_WORDS.get(field, field).split("|")}
                if quick:
                    words |= {*MANIFEST_QUICK.get(field, field).split("|")}
                if not any(word in said for word in words):
                    missed.append((path, field, new, quick, said[:300]))
    assert not missed, "\n".join(map(str, missed))


# --- The index --------------------------------------------------------------------------------

WORDS = {
    "format": "not an index",
    "num_samples": "samples",
    "num_payloads": "values of",
    "dtype": "column",
    "pixel_hash": "pixels' hash",
    "crc32": "CRC-32",
    "first_row": "first rows",
    "keys": "key|order|the name of|its name says|fingerprint",
    "length": "the size of|CRC-32",
    "data": "column|label",
    "block_size": "block_size|block size|first rows",
    "encoding": "encoding|columns",
    "image_shape": "image_shape|length|frame states",
}
"""Field or column -> how a fault names it, if not by its name."""

QUICK_WORDS = {
    "crc32": "",
    "pixel_hash": "fingerprint",
    "image_shape": "image_shape|image_sizes|length",
    "length": "the size of",
}
"""The same for ``verify --quick``; empty if it does not compare the field."""


def index_changes(content: Any) -> Iterator[tuple[str, Any]]:
    """Field or column, and an index in which it is changed."""
    for path, value in parts(content):
        field = next((name for name in path[::-1] if isinstance(name, str)), "")
        if isinstance(value, bytes):
            column = str(path[-2])
            size = int(content["columns"][column]["dtype"][2:])
            at = size * (ROW if len(value) > size else 0)
            yield (
                column,
                changed(content, path, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]),
            )
            yield column, changed(content, path, value[:-1])
            continue
        for new in other_values(value):
            yield (
                field_of(path, value, new) if isinstance(value, dict) else field,
                changed(content, path, new),
            )


@of_datasets("png with all sidecars", "zstd without a class")
def test_every_field_of_the_index_is_compared(shards: Path) -> None:
    content = msgpack.unpackb(read_index(shards, SHARD))
    has_blocks = ENCODINGS[content["encoding"]].has_blocks
    restore = restored(shards)
    missed = []
    seen: set[str] = set()
    for field, new in index_changes(content):
        write_index(shards, SHARD, msgpack.packb(new, use_bin_type=True))
        is_first = field not in seen
        seen.add(field)
        for quick in (True, False)[: 1 + is_first]:
            said = said_by(shards, quick=quick)
            words = WORDS.get(field, field)
            if quick:
                words = QUICK_WORDS.get(field, words)
            if words and not any(word in said for word in (field, *words.split("|"))):
                missed.append((field, quick, said[:300]))
        # Blocks have no names: without a manifest, only the order may show a changed key.
        if is_first and not (field == "keys" and has_blocks) and is_accepted(shards):
            missed.append((field, "reindex", ""))
        restore()
    assert not missed, "\n".join(map(str, missed))


# --- The tar ----------------------------------------------------------------------------------


def byte_changes(data: bytes) -> Iterator[tuple[str, int]]:
    """How a fault names a byte, and its offset: all of the first members, and of the index."""
    at = 0
    while data[at]:
        name = data[at : at + 100].rstrip(b"\0").decode()
        size = int(data[at + 124 : at + 135], 8)
        field_at = at
        is_index = name == fmt.INDEX_NAME
        if at < 4 * fmt.TAR_BLOCK or is_index:
            for field, num_bytes, _ in HEADER_FIELDS:
                yield f"the {field} of the header of {name}", field_at
                field_at += num_bytes
            if size % fmt.TAR_BLOCK:
                yield f"the padding of {name}", at + fmt.TAR_BLOCK + size
        at += fmt.TAR_BLOCK
        if not is_index:
            yield f"the content of {name}", at
        at += -(-size // fmt.TAR_BLOCK) * fmt.TAR_BLOCK
    yield "the end of the archive", at
    yield "the end of the archive", len(data) - 1


@of_datasets("png with all sidecars", "raw")
def test_every_field_of_the_tar_is_compared(shards: Path) -> None:
    data = (shards / SHARD).read_bytes()
    suffixes = tuple(f".{encoding.suffix}" for encoding in ENCODINGS.values())
    restore = restored(shards)
    missed = []
    for what, at in byte_changes(data):
        new = bytearray(data)
        new[at] ^= 1
        write_shard(shards, SHARD, bytes(new))
        is_payload = what.startswith("the content of") and what.endswith(suffixes)
        said = said_by(shards, quick=not is_payload)
        if not said if is_payload else what not in said:
            missed.append((what, said[:300]))
        if is_payload and said_by(shards, quick=True):
            missed.append((what, "quick"))
        if "header" not in what and is_accepted(shards):
            missed.append((what, "reindex"))
        restore()
    assert not missed, "\n".join(map(str, missed))


# --- The table in docs/format.md --------------------------------------------------------------


def documented() -> set[str]:
    """All words in the first column of the tables of the section on verification."""
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    section = text.partition("\n## Verification\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("|")]
    return {word for row in rows for word in re.findall(r"[A-Za-z0-9_]+", row)}


def test_the_table_has_every_field(datasets: dict[str, Path]) -> None:
    fields = {name for name, _, _ in HEADER_FIELDS}
    for shards in datasets.values():
        contents = [read_document(shards), msgpack.unpackb(read_index(shards, SHARD))]
        for path, _ in (one for content in contents for one in parts(content)):
            is_name = any(part in ("origins", "libraries") for part in path[:-1])
            is_name |= "classes" in path[4:-1] or "parent" in path[:-1]
            if path and isinstance(path[-1], str) and not is_name:
                fields.add(path[-1])
    assert fields - documented() == {"columns"}  # it only holds the columns


@pytest.mark.parametrize("depth", [100, 300, 480, 900])
def test_deep_documents_are_compared_or_rejected(
    datasets: dict[str, Path], tmp_path: Path, depth: int
) -> None:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    shards = Path(shutil.copytree(datasets["raw"], tmp_path / "shards"))
    content = read_document(shards)
    for path in (("options", "parent"), ("libraries", "a"), ("zebra",)):
        write_document(shards, changed(content, path, {"a": deep}))
        assert verify(shards, workers=1).faults or path[-1] == "parent"
    write_document(shards, content)
    index = msgpack.unpackb(read_index(shards, SHARD))
    try:
        data = msgpack.packb({**index, "zebra": deep}, use_bin_type=True)
    except ValueError:
        return  # too deep to be written
    write_index(shards, SHARD, data)
    assert verify(shards, workers=1).faults


def test_messages_about_a_strangers_manifest_are_short(
    datasets: dict[str, Path], tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(datasets["raw"], tmp_path / "shards"))
    content = read_document(shards)
    long = "x" * 500_000
    for path, value in (((long,), 1), (("options", long), long), (("classes", 0), long)):
        write_document(shards, changed(content, path, value))
        found = verify(shards, workers=1)
        assert found.faults and max(len(str(fault)) for fault in found.faults) < 1000
    many = {f"x{number}": number for number in range(3000)}
    write_document(shards, content | many)
    found = verify(shards, workers=1)
    assert (len(found.faults), found.num_more_faults) == (1000, 2000)
