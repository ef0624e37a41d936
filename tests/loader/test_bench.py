"""The comparison with ImageFolder: the same images, in turn, and the best setting counts."""

from pathlib import Path

import pytest
import torch
from make_demo_tree import make_tree

from cinic_shards import ShardLoader
from cinic_shards.errors import OptionError, OutputError
from cinic_shards.loader import bench
from cinic_shards.write.pack import pack


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench") / "tree"
    make_tree(root, per_class=9, seed=3)
    pack(root, root.parent / "shards", workers=1)
    return root


@pytest.mark.parametrize("normalize", [False, True])
def test_imagefolder_reads_the_same_images_as_the_loader(tree: Path, normalize: bool) -> None:
    statistics = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)) if normalize else None
    loaders = (
        bench.imagefolder(tree / "train", batch_size=90, workers=0, normalize=statistics),
        ShardLoader(tree.parent / "shards", batch_size=90, normalize=normalize),
    )
    (images, labels), (our_images, our_labels) = (next(iter(one)) for one in loaders)
    assert images.shape == our_images.shape == (90, 3, 32, 32)
    assert images.dtype == our_images.dtype == (torch.float32 if normalize else torch.uint8)
    assert torch.equal(torch.bincount(labels), torch.bincount(our_labels))
    if not normalize:
        order, our_order = (
            sorted(image.numpy().tobytes() for image in part) for part in (images, our_images)
        )
        assert order == our_order


def test_jobs_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[object] = []

    def job(name: str) -> int:
        calls.append(name)
        return 10

    jobs = {name: lambda name=name: job(name) for name in "ab"}
    rates = bench.take_turns(jobs, rounds=2, before=lambda key, number: calls.append(number))
    assert calls == [0, "a", 0, "b", 1, "a", 1, "b", 2, "a", 2, "b"]
    assert {name: len(values) for name, values in rates.items()} == {"a": 2, "b": 2}
    assert all(rate > 0 for values in rates.values() for rate in values)
    assert len(bench.take_turns({"a": lambda: 1}, rounds=1, least_seconds=0.01)["a"]) > 1


def test_every_setting_is_measured(tree: Path) -> None:
    lines: list[str] = []
    results = bench.compare(
        tree, [tree.parent / "shards"], split="train", batch_size=45, epochs=1, normalize=False,
        progress=lines.append,
    )  # fmt: skip
    assert [(result.name, result.setting) for result in results] == [
        *(("imagefolder", f"{workers} workers") for workers in bench.IMAGEFOLDER_WORKERS),
        ("cinic-shards", f"png: {tree.parent / 'shards'}"),
    ]
    assert all(len(result.rates) == 1 and result.median > 0 for result in results)
    assert len(lines) == 8 and lines[-1].endswith("shards), epoch 1 of 1")


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
            [tree.parent / "shards"],
            split="train",
            batch_size=8,
            epochs=1,
            normalize=False,
        )


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_has_the_best_imagefolder_and_each_dataset(tmp_path: Path, suffix: str) -> None:
    results = [
        bench.Result("imagefolder", "0 workers", (1.0,)),
        bench.Result("imagefolder", "2 workers", (2.0,)),
        bench.Result("cinic-shards", "png: a", (3000.0,)),
        bench.Result("cinic-shards", "raw: b", (4.0,)),
    ]
    path = tmp_path / f"plot.{suffix}"
    bench.plotter(path)(results)
    content = path.read_bytes()
    if suffix == "svg":
        text = content.decode()
        assert "0 workers" not in text
        assert all(label in text for label in ("2 workers", "png: a", "raw: b", "3,000"))
    else:
        assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("plot.xyz", OptionError, r"plot\.xyz: expected a name that ends with \.png, \.svg or"),
        ("plot", OptionError, "expected a name that ends with"),
        ("no-folder/plot.png", OutputError, "there is no folder .*; make it first"),
    ],
)
def test_a_wrong_plot_is_rejected_before_anything_is_measured(
    tmp_path: Path, name: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        bench.plotter(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
