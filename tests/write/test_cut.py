"""The number of samples in each shard: by default, with ``shards``, and in a changed dataset."""

from pathlib import Path
from typing import Any

import pytest
from make_demo_tree import make_tree

from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.errors import OptionError, OutputError
from cinic_shards.format import MANIFEST_NAME, Manifest
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.subset import Subset
from cinic_shards.write.convert import convert
from cinic_shards.write.cut import cut_into_shards, default_shard_size
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.select import select


def cut(num_samples: int, shard_size: int) -> list[int]:
    """Return the number of samples in each shard of a split."""
    shards = cut_into_shards("x", num_samples, shard_size)
    return [rows.stop - rows.start for _, rows in shards]


def cuts(manifest: Manifest) -> dict[str, list[int]]:
    """Return the number of samples in each shard of every split."""
    return {split.name: [shard.num_samples for shard in split.shards] for split in manifest.splits}


def digests(manifest: Manifest) -> list[str]:
    return [shard.sha256 for split in manifest.splits for shard in split.shards]


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [
        (1, [1]),
        (1024, [1024]),
        (1025, [513, 512]),  # not 1,024 and 1
        (5000, [1024] * 4 + [904]),
        (8 * 1024, [1024] * 8),
        (8 * 1024 + 1, [911] * 8 + [905]),
        (9000, [1024] * 8 + [808]),
        (27_000, [3072] * 8 + [2424]),
        (50_000, [5120] * 9 + [3920]),
        (90_000, [10_240] * 8 + [8080]),  # CINIC-10, as in 0.1.0
        (180_000, [10_240] * 17 + [5920]),
    ],
)
def test_the_default_shard_size(num_samples: int, expected: list[int]) -> None:
    assert cut(num_samples, default_shard_size(num_samples, 1024)) == expected


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_a_split_has_8_shards_or_one_for_each_block(block_size: int) -> None:
    for num_samples in range(1, 120 * block_size):
        found = cut(num_samples, default_shard_size(num_samples, block_size))
        num_blocks = -(-num_samples // block_size)
        assert min(8, num_blocks) <= len(found) <= max(21, num_blocks / 5)
        assert found[0] <= 10 * block_size
        # With shards of equal size, the last is smaller by less than their number.
        assert 2 * found[-1] >= found[0] or found[0] - found[-1] < len(found)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of train and valid, 30 of test; read only."""
    root = tmp_path_factory.mktemp("cut") / "tree"
    make_tree(root, per_class=4, seed=1)
    for path in sorted(root.glob("test/*/*.png"))[::4]:
        path.unlink()
    return root


@pytest.fixture(scope="module")
def packed(tree: Path) -> dict[str, Path]:
    """``tree`` in blocks of 2, cut in different ways; read only."""
    found = {}
    for name, how in {"default": {}, "by size": {"shard_size": 25}, "one": {"shards": 1}}.items():
        found[name] = tree.parent / name
        pack(tree, found[name], options(**how), workers=1)
    return found


HALF = Subset(fraction=0.5)


def options(**how: Any) -> PackOptions:
    return PackOptions(**({"encoding": "zstd", "block_size": 2} | how))


CUTS: dict[str, tuple[dict[str, Any], list[int], list[int]]] = {
    "default": ({}, [4] * 7 + [2], [4] * 10),
    "default, png": ({"encoding": "png"}, [4] * 7 + [2], [4] * 10),
    "one block": ({"block_size": 64}, [30], [40]),
    "few blocks": ({"block_size": 9}, [8, 8, 8, 6], [8] * 5),
    "shards": ({"shards": 6}, [5] * 6, [7] * 5 + [5]),
    "a shard size": ({"shard_size": 25}, [25, 5], [25, 15]),
}
"""Options, and the samples in each shard of test (30 samples) and of the other splits (40)."""


@pytest.mark.parametrize("name", CUTS)
def test_each_split_is_cut_on_its_own(tree: Path, tmp_path: Path, name: str) -> None:
    how, of_test, of_others = CUTS[name]
    manifest = pack(tree, tmp_path / "out", options(**how), workers=1)
    assert cuts(manifest) == {"test": of_test, "train": of_others, "valid": of_others}
    for split in manifest.splits:
        names = [shard.name for shard in split.shards]
        count = len(names)
        assert names == [f"{split.name}-{i:05d}-of-{count:05d}.tar" for i in range(count)]
    assert verify(tmp_path / "out", against=tree, workers=1).is_whole
    (tmp_path / "out" / MANIFEST_NAME).unlink()
    again = reindex(tmp_path / "out", workers=1)
    assert again.splits == manifest.splits
    if count > 1:
        assert again.options == manifest.options
        assert manifest.options["shard_size"] == max(of_test + of_others)
    assert verify(tmp_path / "out", workers=1).is_whole


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "no shard": ({"shards": 0}, "shards 0: expected at least 1"),
    "both options": ({"shards": 2, "shard_size": 9}, "shard size 9 and shards 2: give one of them"),
    "more shards than samples": (
        {"shards": 35},
        r"shards 35: more than .* equal size; expected for split test \(30 samples\) at most 30, ",
    ),
    "shards of unequal size": (
        {"shards": 9},
        r"shards 9: .* split test \(30 samples\) at most 8, train \(40 samples\) at most 8, ",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_cannot_be_cut(tree: Path, packed: dict[str, Path], tmp_path: Path, name: str) -> None:
    how, said = PROBLEMS[name]
    for write in (
        lambda: pack(tree, tmp_path / "out", options(**how), workers=1),
        lambda: convert(packed["one"], tmp_path / "out", encoding="raw", **how, workers=1),
        lambda: select(packed["one"], tmp_path / "out", **how, workers=1),
    ):
        with pytest.raises(OptionError, match=said):
            write()
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("before", ["default", "by size", "one"])
@pytest.mark.parametrize("how", [{"shards": 6}, {"shard_size": 16}], ids=str)
def test_a_dataset_is_cut_again(
    tree: Path, packed: dict[str, Path], tmp_path: Path, before: str, how: dict[str, int]
) -> None:
    """Convert and select write the shards that pack would write with the same option."""
    raw = pack(tree, tmp_path / "raw", options(encoding="raw", **how), workers=1)
    converted = convert(packed[before], tmp_path / "a", encoding="raw", **how, workers=1)
    assert digests(converted) == digests(raw) and converted.options == raw.options
    assert verify(tmp_path / "a", workers=1).is_whole
    expected = pack(tree, tmp_path / "zstd", options(**how), workers=1)
    selected = select(packed[before], tmp_path / "b", **how, workers=1)
    assert digests(selected) == digests(expected)
    assert verify(tmp_path / "b", workers=1).is_whole


@pytest.mark.parametrize("name", ["default", "by size", "one"])
def test_the_cut_of_a_dataset_is_kept(packed: dict[str, Path], tmp_path: Path, name: str) -> None:
    before = Dataset(packed[name]).manifest
    assert cuts(convert(packed[name], tmp_path / "a", encoding="raw", workers=1)) == cuts(before)
    selected = select(packed[name], tmp_path / "b", splits=["test,train"], workers=1)
    kept = [shard.sha256 for split in before.splits[:2] for shard in split.shards]
    assert digests(selected) == kept


@pytest.mark.parametrize("name", ["default", "by size", "one"])
def test_shards_of_new_splits_have_the_default_size_or_stay_smaller(
    packed: dict[str, Path], tmp_path: Path, name: str
) -> None:
    half = select(packed[name], tmp_path / "a", splits=["train"], subset=HALF, workers=1)
    both = select(packed[name], tmp_path / "b", splits=["all=test+train"], workers=1)
    assert cuts(half)["train"] == [2] * 10
    assert cuts(both)["all"] == {"default": [4] * 17 + [2]}.get(name, [8] * 8 + [6])


def test_a_new_block_size_gives_the_default_shards(
    tree: Path, packed: dict[str, Path], tmp_path: Path
) -> None:
    expected = digests(pack(tree, tmp_path / "expected", options(block_size=9), workers=1))
    for name, dataset in packed.items():
        found = convert(dataset, tmp_path / name, encoding="zstd", block_size=9, workers=1)
        assert digests(found) == expected


def test_only_a_job_with_the_same_cut_is_resumed(tree: Path, tmp_path: Path) -> None:
    def stop(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        pack(tree, out, options(shards=5), workers=1, progress=stop)
    with pytest.raises(OutputError, match=r"'shard_sizes': {'test': 6, 'train': 8, 'valid': 8}"):
        pack(tree, out, options(shard_size=8), workers=1)  # the same as for two of the splits
    resumed = pack(tree, out, options(shards=5), workers=1)
    assert digests(resumed) == digests(pack(tree, tmp_path / "x", options(shards=5), workers=1))
