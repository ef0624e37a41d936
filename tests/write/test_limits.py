"""Limits of readers and of the system: writers know them first, and any number of shards works."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from make_demo_tree import make_tree

import cinic_shards.format as fmt
from cinic_shards import ShardLoader
from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.errors import OptionError, OutputError
from cinic_shards.format import MANIFEST_NAME, PixelSums, ShardInfo
from cinic_shards.read.dataset import Dataset
from cinic_shards.store import LocalStore, open_store
from cinic_shards.store import base as store_base
from cinic_shards.store import system as store_system
from cinic_shards.store.system import num_maps_left
from cinic_shards.write import dataset as dataset_writer
from cinic_shards.write import facts
from cinic_shards.write.convert import convert
from cinic_shards.write.facts import ShardFacts
from cinic_shards.write.journal import Journal
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.samples import packed as packed_samples
from cinic_shards.write.select import select
from cinic_shards.write.unpack import Unpacked, unpack
from tests.support.files import files_of, write


def silent(text: str) -> None:
    """Ignore a warning."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images of each split; read only."""
    root = tmp_path_factory.mktemp("limits") / "tree"
    make_tree(root, per_class=2, seed=0)
    return root


@pytest.fixture(scope="module")
def many(tree: Path) -> Path:
    """``tree`` in 60 shards; read only."""
    pack(tree, tree.parent / "many", PackOptions(shard_size=1), workers=1)
    return tree.parent / "many"


@pytest.fixture(scope="module")
def few(tree: Path) -> Path:
    """``tree`` in 3 shards; read only."""
    pack(tree, tree.parent / "few", workers=1)
    return tree.parent / "few"


@pytest.fixture
def set_limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the most bytes that a writer may write to a manifest or to a note of a journal."""

    def set_limit(most: int) -> None:
        for module in (store_base, facts):
            monkeypatch.setattr(module, "MAX_READ_BYTES", most, raising=False)

    return set_limit


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A small dataset that will be replaced."""
    write(tmp_path / "old", "train/a/1.png", "train/b/2.png")
    pack(tmp_path / "old", tmp_path / "out", workers=1, warn=silent)
    return tmp_path / "out"


WRITERS: dict[str, Callable[[Path, Path, Path], object]] = {
    "pack": lambda tree, many, out: pack(
        tree, out, PackOptions(shard_size=1), workers=1, overwrite=True
    ),
    "convert": lambda tree, many, out: convert(
        many, out, encoding="raw", workers=1, overwrite=True
    ),
    "select": lambda tree, many, out: select(many, out, workers=1, overwrite=True),
}


@pytest.mark.parametrize("fraction", [0.5, 0.99], ids=["by an estimate", "by its size"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_manifest_that_is_too_large(
    tree: Path, many: Path, old: Path, monkeypatch: pytest.MonkeyPatch,
    set_limit: Callable[[int], None], writer: str, fraction: float,
) -> None:  # fmt: skip
    """The old dataset stays. If the estimate is too large, not all shards are made first."""
    before = files_of(old)
    finished: list[object] = []
    make_manifest = dataset_writer.make_manifest

    def noted(*args: Any, **options: Any) -> Any:
        finished.append(args)
        return make_manifest(*args, **options)

    monkeypatch.setattr(dataset_writer, "make_manifest", noted)
    set_limit(int(fraction * (many / MANIFEST_NAME).stat().st_size))
    with pytest.raises(OutputError, match=r"/manifest\.json: .* or more, .* larger --shard-size"):
        WRITERS[writer](tree, many, old)
    assert bool(finished) == (fraction == 0.99)
    assert files_of(old) == before


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_the_estimate_of_a_manifest(packed: dict[str, Path], many: Path, encoding: str) -> None:
    """It is never more than the size of the shards' entries, and not much less."""
    for shards in (packed[encoding], many):
        manifest = Dataset(shards).manifest
        of_shards = [shard for split in manifest.splits for shard in split.shards]
        estimate = sum(
            fmt.least_entry_bytes(shard.name, len(shard.classes), manifest.classes)
            for shard in of_shards
        )
        content = json.loads(manifest.to_bytes())
        for split in content["splits"]:
            split["shards"] = []
        size = len(manifest.to_bytes()) - len(json.dumps(content, indent=1))
        assert 0.8 * size < estimate < size


def test_a_manifest_that_readers_reject(
    tree: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of pixels that a manifest cannot hold, as of millions of large photos."""
    before = files_of(old)
    sums = PixelSums(2**46, (2**50,) * 3, (2**54,) * 3)
    monkeypatch.setattr(ImageMeter, "pixels", property(lambda self: sums))
    said = (
        r"/manifest\.json: readers would reject it: .*pixel_square_sums: .* from 0 to 2\*\*53 - 1"
    )
    with pytest.raises(OutputError, match=said):
        pack(tree, old, workers=1, overwrite=True)
    assert files_of(old) == before


@pytest.mark.parametrize("has_manifest", [True, False])
def test_reindex_of_too_many_shards(
    shards: Path, set_limit: Callable[[int], None], has_manifest: bool
) -> None:
    if not has_manifest:
        (shards / MANIFEST_NAME).unlink()
    before = files_of(shards)
    set_limit(1000)
    with pytest.raises(OutputError, match=r"/manifest\.json: .* or more, readers accept at most"):
        reindex(shards, workers=1)
    assert files_of(shards) == before


def test_a_note_that_is_too_large(tmp_path: Path, set_limit: Callable[[int], None]) -> None:
    """A shard's note lists the sizes of its images; the journal is read again to resume."""
    set_limit(10_000)
    info = ShardInfo("x-00000-of-00001.tar", 1, "0" * 64, 1, 1, "0" * 64, 1, {}, {})
    sizes = {(height, 1): 1 for height in range(1000, 3000)}
    noted = ShardFacts("x", info, b"", sizes, PixelSums(1, (0, 0, 0), (0, 0, 0)))
    with (
        Journal(LocalStore(tmp_path)) as journal,
        pytest.raises(OutputError, match=r"/x-00000-of-00001\.tar\.json: .* expected at most"),
    ):
        journal.shard_done(noted)


def test_a_shard_size_that_no_manifest_can_state() -> None:
    with pytest.raises(OptionError, match=r"expected at least 1 sample, at most 2\*\*53 - 1"):
        PackOptions(shard_size=2**53)


@contextmanager
def few_open_files() -> Iterator[None]:
    """Let this process open at most 25 more files."""
    resource = pytest.importorskip("resource")
    free = []
    for descriptor in range(1000):
        try:
            os.fstat(descriptor)
        except OSError:
            free.append(descriptor)
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[25], most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def read_epoch(shards: Path) -> None:
    loader = ShardLoader(shards, split="train+valid", batch_size=16, tail="short")
    assert sum(batch.num_samples for batch in loader) == 40


USES: dict[str, Callable[[Path, Path], object]] = {
    "an epoch": lambda many, out: read_epoch(many),
    "verify": lambda many, out: verify(many, workers=1),
    "convert": lambda many, out: convert(many, out, encoding="zstd", workers=1),
    "select": lambda many, out: select(many, out, splits=["a=train+valid"], workers=1),
    "unpack": lambda many, out: unpack(many, out, workers=1),
    "reindex": lambda many, out: reindex(many, workers=1),
}


@pytest.mark.parametrize("work", USES)
def test_more_shards_than_open_files(many: Path, tmp_path: Path, work: str) -> None:
    with few_open_files():
        USES[work](many, tmp_path / "out")


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_a_new_shard_from_many_shards(
    many: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """40 shards make one: they are not open at the same time, and its bytes are the usual ones."""
    found = {}
    for name, shards in (("many", many), ("few", few)):
        convert(shards, tmp_path / name, encoding=encoding, workers=1, warn=silent)
    num_open = []
    open_shard = packed_samples.open_shard
    before = num_maps_left()

    def noted(*args: Any) -> Any:
        opened = open_shard(*args)
        num_open.append(before - num_maps_left())
        return opened

    monkeypatch.setattr(packed_samples, "open_shard", noted)
    monkeypatch.setattr(packed_samples, "_OPEN_SAMPLES", 16, raising=False)
    for name in ("many", "few"):
        out = tmp_path / f"new {name}"
        with few_open_files():
            new = select(tmp_path / name, out, splits=["a=train+valid"], shard_size=200, workers=1)
        found[name] = [shard.sha256 for split in new.splits for shard in split.shards]
    assert found["many"] == found["few"] and len(found["many"]) == 1
    assert len(num_open) >= 40 and max(num_open) <= 17


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_more_shards_than_maps(
    packed: dict[str, Path], monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Blocks are then read from the files; the batches are the same."""

    def batches() -> list[tuple[Any, ...]]:
        loader = ShardLoader(packed[encoding], split="train", batch_size=16, seed=3)
        return [(loader.state_dict(), *batch) for batch in loader]

    assert Dataset(packed[encoding]).split("train").is_mapped
    expected = batches()
    num_maps = store_system.MAX_MAPS - num_maps_left()
    monkeypatch.setattr(store_system, "MAX_MAPS", num_maps + 2)
    assert not Dataset(packed[encoding]).split("train").is_mapped
    found = batches()
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0]
        assert all(torch.equal(x, y) for x, y in zip(one[1:3], other[1:3], strict=True))


def test_a_new_shard_from_many_fetched_shards(many: Path, tmp_path: Path) -> None:
    """Fetched shards are temporary files, which are closed as well."""
    store = open_store("memory://many")
    shutil.copytree(many, tmp_path / "many")
    for path in (tmp_path / "many").iterdir():
        with store.create(path.name) as file:
            file.write(path.read_bytes())
    with few_open_files():
        assert verify(store, workers=1).is_whole
        select(
            store, tmp_path / "out", splits=["a=train+valid"], shard_size=200, workers=1,
            warn=silent,
        )  # fmt: skip
        assert unpack(store, tmp_path / "tree", workers=1) == Unpacked(60, 0)
