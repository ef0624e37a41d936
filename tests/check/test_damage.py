"""Damage has the same extent for every reader: each damaged sample is named, and no other.

A reader here is anything that reads images of a packed dataset. The damage is one byte of a
payload, or one wrong value of an index whose digests are right.
"""

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from make_demo_tree import make_tree

from cinic_shards import CINIC10, ShardIterable, ShardLoader, convert, errors, select, stats, unpack
from cinic_shards.check.verify import verify
from cinic_shards.codec import ENCODINGS, Payloads
from cinic_shards.errors import CinicShardsError
from cinic_shards.format import NPY_HEADER_BYTES, pixel_hashes
from cinic_shards.loader.cache import Cache
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.map_images import map_images
from cinic_shards.store import Store, open_store
from cinic_shards.view.montage import show
from cinic_shards.view.report.content import gather
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.select import select_tree
from tests.support.files import flip
from tests.support.indexes import rewrite_index, with_value

SHARD = "train-00001-of-00002.tar"
ROW, BLOCK = 9, 1
"""The damaged sample's row in the shard, and its block."""
NUM_IN_BLOCK = 8

DAMAGE: dict[str, Callable[[Path], object]] = {
    "payload": lambda shards: flip(shards / SHARD, offset(shards, "middle")),
    "header": lambda shards: flip(shards / SHARD, offset(shards, "header")),
    "crc32": lambda shards: rewrite_index(shards, with_value("crc32", number(shards), 1)),
    "pixel_hash": lambda shards: rewrite_index(shards, with_value("pixel_hash", ROW, 0)),
}


def number(shards: Path) -> int:
    """The number of the damaged payload in the shard."""
    return BLOCK if ENCODINGS[Dataset(shards).manifest.encoding].has_blocks else ROW


def offset(shards: Path, part: str) -> int:
    """The offset of a byte of the damaged payload."""
    index = Dataset(shards).split("train")._indexes[1]
    at, length = (int(getattr(index, name)[number(shards)]) for name in ("offset", "length"))
    if part == "header":
        return at + 20
    if ENCODINGS[index.encoding].pixels_offset is None:
        return at + length // 2
    return at + NPY_HEADER_BYTES + (ROW - BLOCK * NUM_IN_BLOCK) * 3072 + 1000


def damaged_rows(shards: Path, damage: str) -> set[int]:
    """Rows of the shard whose pixels cannot be proved, found without the readers."""
    index = Dataset(shards).split("train")._indexes[1]
    encoding = ENCODINGS[index.encoding]
    if not encoding.has_blocks:
        return {ROW}
    rows = set(range(BLOCK * NUM_IN_BLOCK, (BLOCK + 1) * NUM_IN_BLOCK))
    data = np.fromfile(shards / SHARD, np.uint8)
    start = int(index.offset[BLOCK])
    payload = data[start : start + int(index.length[BLOCK])]
    images = np.empty((NUM_IN_BLOCK, 32, 32, 3), np.uint8)
    if damage == "pixel_hash":
        return {ROW}
    if encoding.decode(Payloads.one(payload), images):
        return rows
    found = pixel_hashes(images)
    stated = index.pixel_hash[BLOCK * NUM_IN_BLOCK : (BLOCK + 1) * NUM_IN_BLOCK]
    wrong = {row for row in rows if (found != stated)[row - BLOCK * NUM_IN_BLOCK].any()}
    return wrong or rows


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Datasets of 120 samples, by encoding: shards of 20 samples, blocks of 8, 8 and 4."""
    root = tmp_path_factory.mktemp("intact")
    make_tree(root / "tree", per_class=4, seed=3)
    for encoding in ENCODINGS:
        options = PackOptions(encoding=encoding, shard_size=20, block_size=NUM_IN_BLOCK)
        pack(root / "tree", root / encoding, options, workers=1)
    return {encoding: root / encoding for encoding in ENCODINGS}


# Each reader reads the split "train" of a dataset, and returns the keys that its errors name.


@pytest.fixture(autouse=True)
def list_all_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each sample a line: messages count the damaged samples that are alike."""
    monkeypatch.setattr(errors, "_MAX_ALIKE", 1000)


def named(error: BaseException | str) -> set[str]:
    """Keys of the samples that a message names."""
    return set(re.findall(r"sample [0-9]+ \(([^)]*)\)", str(error)))


def raised(read: Callable[[], object]) -> set[str]:
    """Keys that the error of a call names, none if it raises none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except CinicShardsError as error:
        return named(error)
    return set()


def remote(shards: Path) -> Store:
    """A copy of a dataset in an object store."""
    store = open_store(f"memory://{uuid4()}")
    for path in shards.iterdir():
        with store.create(path.name) as file:
            file.write(path.read_bytes())
    return store


def by_verify(shards: Path, out: Path) -> set[str]:
    index = Dataset(shards).split("train")._indexes[1]
    keys = set()
    for fault in verify(shards, workers=1).faults:
        if fault.location.block is not None:
            keys |= set(index.keys[fault.location.block * NUM_IN_BLOCK :][:NUM_IN_BLOCK])
        keys |= {fault.location.key} - {""}
    return keys


def by_unpack(shards: Path, out: Path) -> set[str]:
    keys = raised(lambda: unpack(shards, out, splits=["train"], workers=1))
    written = {path.relative_to(out).as_posix()[:-4] for path in out.glob("*/*/*.png")}
    assert written == set(Dataset(shards).columns_of("train").keys) - keys
    return keys


def by_convert(encoding: str) -> Callable[[Path, Path], set[str]]:
    return lambda shards, out: raised(lambda: convert(shards, out, encoding=encoding, workers=1))


def by_select(shards: Path, out: Path) -> set[str]:
    keys = raised(lambda: select(shards, out / "same", splits=["train"], workers=1))
    joined = raised(lambda: select(shards, out / "joined", splits=["x=train+test"], workers=1))
    assert joined == keys
    return keys


def by_select_tree(shards: Path, out: Path) -> set[str]:
    return raised(lambda: select_tree(shards, out, splits=["train"], workers=1))


def by_stats(shards: Path, out: Path) -> set[str]:
    return raised(lambda: stats(shards, split="train", histograms=True, workers=1))


def by_show(shards: Path, out: Path) -> set[str]:
    return raised(lambda: show(shards, out / "a.png", split="train", per_class=99, workers=1))


def by_report(shards: Path, out: Path) -> set[str]:
    content = gather(
        shards, sample=9, seed=0, quick=True, workers=1, progress=lambda *progress: None
    )
    return {key for error in content.unreadable for key in named(error)}


def by_map_images(shards: Path, out: Path) -> set[str]:
    """One sample at a time: an error must not be caused by a different sample."""
    reader = Dataset(shards).split("train")
    keys = set()
    for row in range(len(reader)):
        found = raised(
            lambda row=row: map_images(  # type: ignore[misc]
                reader, np.array([row]), lambda images: None, doing="", workers=1
            )
        )
        assert found <= {reader.key(row)}
        keys |= found
    return keys


def by_reader(shards: Path, out: Path) -> set[str]:
    reader = Dataset(shards).split("train")
    keys = set()
    for block in range(reader.num_blocks):
        start, stop = reader.block_starts[block : block + 2].tolist()
        errors = reader.read_block(block, np.empty((stop - start, 32, 32, 3), np.uint8))
        assert all(named(e) == {reader.key(start + e.position)} for e in errors)
        keys |= {key for error in errors for key in named(error)}
    return keys


def by_cinic10(cache: Any, *, is_remote: bool) -> Callable[[Path, Path], set[str]]:
    def read(shards: Path, out: Path) -> set[str]:
        options = Cache(cache, folder=out if cache == "disk" else None)
        data = CINIC10(remote(shards) if is_remote else shards, cache=options, order="packed")
        keys = Dataset(shards).columns_of("train").keys.tolist()
        bad = set()
        for row in range(len(data)):
            found = raised(lambda row=row: data[row])  # type: ignore[misc]
            assert found <= {keys[row]}
            bad |= found
        good = [row for row, key in enumerate(keys) if key not in bad]
        assert len(data.__getitems__(good)) == len(good)
        return bad

    return read


def by_loader(cache: Any, *, is_remote: bool) -> Callable[[Path, Path], set[str]]:
    def read(shards: Path, out: Path) -> set[str]:
        options = Cache(cache, folder=out if cache == "disk" else None)
        path = remote(shards) if is_remote else shards
        loader = ShardLoader(path, batch_size=10, cache=options, on_error="skip", workers=1)
        keys = Dataset(shards).columns.keys
        ids = {
            i for batch in loader for i in batch.indices.tolist()
        }  # fmt: skip
        skipped = loader.skipped
        assert all(named(text) == {keys[i]} for i, text in skipped.items())
        first = Dataset(shards).split("train").ids(np.arange(40)).tolist()
        assert ids == set(first) - set(skipped)
        stops = raised(lambda: list(ShardLoader(path, batch_size=10, cache=options, workers=1)))
        assert len(stops) == bool(skipped) and stops <= {keys[i] for i in skipped}
        return {keys[i] for i in skipped}

    return read


def by_iterable(shards: Path, out: Path) -> set[str]:
    data = ShardIterable(shards, batch_size=10, on_error="skip", workers=1)
    ids = {i for batch in data for i in batch.indices.tolist()}
    reader = Dataset(shards).split("train")
    return {reader.key(row) for row in range(40) if int(reader.ids(np.array([row]))[0]) not in ids}


READERS: dict[str, Callable[[Path, Path], set[str]]] = {
    "verify": by_verify,
    "unpack": by_unpack,
    "convert to png": by_convert("png"),
    "convert to zstd": by_convert("zstd"),
    "convert to raw": by_convert("raw"),
    "select": by_select,
    "select to a tree": by_select_tree,
    "stats": by_stats,
    "show": by_show,
    "report": by_report,
    "map_images": by_map_images,
    "SplitReader": by_reader,
    "CINIC10": by_cinic10("ram", is_remote=False),
    "CINIC10 from disk": by_cinic10("disk", is_remote=False),
    "CINIC10 from a URL": by_cinic10("ram", is_remote=True),
    "ShardLoader": by_loader("none", is_remote=False),
    "ShardLoader, cached": by_loader("ram", is_remote=False),
    "ShardLoader, cached on disk": by_loader("disk", is_remote=False),
    "ShardLoader, on the device": by_loader("device", is_remote=False),
    "ShardLoader from a URL": by_loader("none", is_remote=True),
    "ShardIterable": by_iterable,
}

BY_HASH = {"verify", "unpack", "convert", "select"}
"""Readers that compare the pixel hashes of blocks even if the CRC-32 is right."""

CASES = [
    ("png", "payload"), ("png", "crc32"),
    ("zstd", "payload"), ("zstd", "header"), ("zstd", "crc32"),
    ("raw", "payload"), ("raw", "header"), ("raw", "crc32"), ("raw", "pixel_hash"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*damaged samples skipped")
@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.real) for n in (1, 2))])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_the_damaged_samples(
    intact: dict[str, Path], tmp_path: Path, reader: str, part: int
) -> None:
    first = [*READERS].index(reader) + part  # different readers have different cases
    for number, (encoding, damage) in enumerate(CASES[first % 3 :: 3]):
        shards = Path(shutil.copytree(intact[encoding], tmp_path / f"{number}"))
        DAMAGE[damage](shards)
        keys = Dataset(shards).split("train")._indexes[1].keys
        expected = {keys[row] for row in damaged_rows(shards, damage)}
        if damage == "pixel_hash" and reader.split()[0] not in BY_HASH:
            expected = set()
        out = tmp_path / f"out-{number}"
        out.mkdir()
        assert READERS[reader](shards, out) == expected, (encoding, damage)
