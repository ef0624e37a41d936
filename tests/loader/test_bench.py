"""The benchmark: contenders read the same images, take turns, and the warm-up does not count."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_demo_tree import make_tree

from cinic_shards.errors import OptionError
from cinic_shards.loader import bench
from cinic_shards.write.pack import pack
from tests.support import ROOT


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench") / "tree"
    make_tree(root, per_class=9, seed=3)
    pack(root, root.parent / "shards", workers=1)
    return root


@pytest.mark.parametrize("normalize", [False, True])
def test_imagefolder_reads_the_same_images_as_the_loader(tree: Path, normalize: bool) -> None:
    shards = tree.parent / "shards"
    statistics = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)) if normalize else None
    theirs = bench.imagefolder(tree, "train", batch_size=90, workers=0, normalize=statistics)
    ours = bench.cinic_shards(shards, "train", batch_size=90, normalize=normalize)
    (images, labels), (our_images, our_labels) = (next(iter(one.open())) for one in (theirs, ours))
    assert images.shape == our_images.shape == (90, 3, 32, 32)
    assert images.dtype == our_images.dtype == (torch.float32 if normalize else torch.uint8)
    assert torch.equal(torch.bincount(labels), torch.bincount(our_labels))
    if not normalize:
        order, our_order = (
            sorted(image.numpy().tobytes() for image in part) for part in (images, our_images)
        )
        assert order == our_order


def test_contenders_take_turns_and_the_first_epoch_does_not_count() -> None:
    epochs: list[str] = []

    class Batches:
        def __init__(self, name: str) -> None:
            self.name = name

        def __iter__(self):  # type: ignore[no-untyped-def]
            epochs.append(self.name)
            return iter([(None, range(10)), (None, range(5))])

    contenders = [bench.Contender(name, "", "", lambda name=name: Batches(name)) for name in "ab"]  # type: ignore[misc]
    results = bench.measure(contenders, epochs=2)
    assert epochs == ["a", "b", "a", "b", "a", "b"]
    assert [len(result.rates) for result in results] == [2, 2]
    assert all(rate > 0 for result in results for rate in result.rates)


def test_the_best_setting_counts() -> None:
    results = [
        bench.Result("x", "slow", (1.0, 2.0, 9.0)),
        bench.Result("x", "fast", (3.0, 3.0, 3.0)),
        bench.Result("y", "only", (1.0,)),
    ]
    assert [(r.name, r.setting) for r in bench.best_by_name(results)] == [
        ("x", "fast"),
        ("y", "only"),
    ]


def test_a_different_tree_is_rejected(tree: Path, tmp_path: Path) -> None:
    make_tree(tmp_path / "other", per_class=18, seed=0)
    with pytest.raises(OptionError, match=r"180 PNGs, .* has 90 samples"):
        bench.compare(
            tmp_path / "other",
            tree.parent / "shards",
            split="train",
            batch_size=8,
            epochs=1,
            normalize=False,
        )


@pytest.mark.real
def test_the_loader_benchmark_runs(tree: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    subprocess.run(
        [
            *(sys.executable, ROOT / "benchmarks" / "bench_loader.py", "--epochs", "1"),
            *("--tree", tree, "--shards", tree.parent / "shards", "--batch-size", "16"),
            *("--no-cold", "--out", lines),
        ],
        check=True,
    )
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {row["contender"] for row in rows} == {"imagefolder", "webdataset", "cinic-shards"}
    assert {row["dtype"] for row in rows} == {"uint8", "float32"}
    assert all(row["images_per_second"] > 0 for row in rows)


def run_benchmark(name: str, *options: object) -> list[dict[str, object]]:
    """Run a benchmark with tiny inputs, and return its JSON lines."""
    script = ROOT / "benchmarks" / f"{name}.py"
    command = [sys.executable, str(script), *map(str, options)]
    done = subprocess.run(command, capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_decoders_benchmark_runs(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", per_class=103, seed=0)
    pack(tmp_path / "tree", tmp_path / "shards", workers=1)
    lines = run_benchmark(
        "bench_decode", "--shards", tmp_path / "shards", "--batches", 1, "--repeats", 1
    )
    names = {line["contender"] for line in lines}
    assert names >= {"pillow", *(f"cinic-shards, {name}" for name in ("png", "zstd", "raw"))}


def test_the_augmentation_benchmark_runs() -> None:
    lines = run_benchmark("bench_augment", "--repeats", 1)
    assert len(lines) == 4
    assert all(line["images_per_second"] for line in lines)
