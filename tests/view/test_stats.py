"""Statistics equal numpy's over the tree, for any part, encoding, store and image size."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.errors import FormatError, OptionError
from cinic_shards.format.provenance import parse_stem
from cinic_shards.read import map_images as images
from cinic_shards.read.dataset import Dataset
from cinic_shards.view.stats import pixel_sums, stats
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run

PARTS = [
    {},
    {"split": "train+valid"},
    {"classes": ["cat", "dog"]},
    {"origins": ["cifar"]},
    {"split": "test", "classes": ["ship"], "origins": ["cifar-test", "imagenet"]},
]


def files(tree: Path, part: dict[str, object]) -> list[Path]:
    """Return the tree's files of a part."""
    splits = str(part.get("split", "train+valid+test")).split("+")
    classes = part.get("classes") or [path.name for path in (tree / "train").iterdir()]
    wanted = {"cifar": {"cifar10-train", "cifar10-test"}, "cifar-test": {"cifar10-test"},
              "imagenet": {"imagenet"}}  # fmt: skip
    origins = part.get("origins")
    names = set[str]().union(*(wanted[name] for name in origins)) if origins else None  # type: ignore[attr-defined]
    return [
        path
        for path in sorted(tree.glob("*/*/*.png"))
        if path.parts[-3] in splits
        and path.parts[-2] in classes  # type: ignore[operator]
        and (names is None or parse_stem(path.stem).origin in names)
    ]


def pixels_of(paths: list[Path]) -> NDArray[np.float64]:
    """Return all pixels, (P, 3), on the scale 0 to 1."""
    arrays = [np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3) for path in paths]
    return np.concatenate(arrays).astype(np.float64) / 255


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
@pytest.mark.parametrize("part", PARTS, ids=[" ".join(part) or "all" for part in PARTS])
def test_statistics_of_a_part_equal_numpys(
    encoding: str, part: dict[str, object], encoded: dict[str, Path], encoded_tree: Path
) -> None:
    paths = files(encoded_tree, part)
    pixels = pixels_of(paths)
    for histograms in (False, True):
        found = stats(encoded[encoding], histograms=histograms, **part)  # type: ignore[arg-type]
        assert found.num_samples == len(paths)
        np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=0, atol=1e-12)
        assert found.splits == dict(sorted(Counter(path.parts[-3] for path in paths).items()))
        for counts, name_of in (
            (found.classes, lambda path: path.parts[-2]),
            (found.origins, lambda path: parse_stem(path.stem).origin),
            (found.synsets, lambda path: parse_stem(path.stem).synset),
        ):
            expected: dict[str, Counter[str]] = {}
            for path in paths:
                if name := name_of(path):
                    expected.setdefault(name, Counter())[path.parts[-3]] += 1
            assert counts == {name: dict(by) for name, by in expected.items()}
        assert (found.histograms is not None) == histograms
    assert found.histograms is not None
    for origin, counts in found.histograms.items():
        of_origin = pixels_of([path for path in paths if parse_stem(path.stem).origin == origin])
        for channel in range(3):
            values = (of_origin[:, channel] * 255).round().astype(int)
            assert counts[channel].tolist() == np.bincount(values, minlength=256).tolist()


def test_statistics_of_complete_splits_come_from_the_manifest(
    encoded: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "run_jobs", lambda *args, **options: pytest.fail("it decoded"))
    stats(encoded["png"])
    stats(encoded["png"], split="train+valid")
    with pytest.raises(pytest.fail.Exception):
        stats(encoded["png"], classes=["cat"])


def test_any_number_of_threads_gives_the_same(encoded: dict[str, Path]) -> None:
    one, many = (stats(encoded["zstd"], histograms=True, workers=n) for n in (1, 5))
    assert one.to_json() == many.to_json()
    with pytest.raises(OptionError, match="workers=0: expected an integer, at least 1"):
        stats(encoded["zstd"], histograms=True, workers=0)


def test_images_of_several_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, size in enumerate([(4, 5), (7, 3), (4, 5), (40, 40)]):
        path = tmp_path / "tree" / "train" / "thing" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    shards = tmp_path / "shards"
    pack(tmp_path / "tree", shards, PackOptions(block_size=3), workers=1, warn=lambda text: None)
    pixels = pixels_of(sorted(tmp_path.glob("tree/*/*/*.png")))
    for part in ({}, {"classes": ["thing"]}, {"histograms": True}):
        found = stats(shards, **part)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=0, atol=1e-12)
    assert found.synsets == {} and found.origins == {"unknown": {"train": 4}}


def test_duplicates_among_a_part(tmp_path: Path, demo_tree: Path) -> None:
    cat = next((demo_tree / "train" / "cat").iterdir())
    for split, name in (("train", "a"), ("train", "b"), ("test", "c")):
        path = tmp_path / "tree" / split / "cat" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cat.read_bytes())
    pack(tmp_path / "tree", tmp_path / "shards", workers=1, warn=lambda text: None)
    every, train = stats(tmp_path / "shards"), stats(tmp_path / "shards", split="train")
    assert [sorted(group) for group in every.duplicates.groups] == [
        ["test/cat/c", "train/cat/a", "train/cat/b"]
    ]
    assert train.to_json()["duplicates"] == {"num_images": 1, "counts": {"cat": {"train": 1}}}


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_damaged_images_are_named(encoding: str, encoded: dict[str, Path], tmp_path: Path) -> None:
    dataset = Dataset(encoded[encoding])
    for path in encoded[encoding].iterdir():
        data = bytearray(path.read_bytes())
        if path.name.startswith("train-00001"):
            data[2000] ^= 1
        (tmp_path / path.name).write_bytes(data)
    with pytest.raises(FormatError) as caught:
        stats(tmp_path, histograms=True)
    lines = str(caught.value).splitlines()
    num_bad = len(lines) - 1
    assert lines[0] == f"split test+train+valid: {num_bad} images cannot be decoded"
    assert num_bad == 1  # a damaged block that decodes has intact samples too
    problem = "CRC-32 is" if encoding == "png" else "hash is"
    assert all("train-00001-of-00004.tar" in line and problem in line for line in lines[1:])
    assert stats(tmp_path).mean == dataset.manifest.pixels.mean  # which reads no pixel


def test_unknown_names_are_rejected(encoded: dict[str, Path]) -> None:
    for part, message in (
        ({"split": "nope"}, "no split 'nope'; there is test, train, valid"),
        ({"classes": ["cow"]}, "no class 'cow'; there is airplane"),
        ({"origins": ["flickr"]}, "no origin 'flickr'; expected one of cifar"),
        ({"split": "train", "origins": ["cifar-test"]}, "no sample of train is left by origin"),
    ):
        with pytest.raises(OptionError, match=message):
            stats(encoded["png"], **part)  # type: ignore[arg-type]


def test_sums_of_a_large_histogram_do_not_wrap() -> None:
    counts = np.zeros((3, 256), np.int64)
    counts[:, 255] = 2**50
    sums = pixel_sums(counts)
    assert sums.square_sums == (2**50 * 255**2,) * 3
    assert sums.mean == (1, 1, 1) and sums.std == (0, 0, 0)


def test_the_command(encoded: dict[str, Path], run: Run) -> None:
    def said(*arguments: object) -> str:
        outcome = run(*arguments)
        assert outcome.status == 0
        return outcome.out

    found = json.loads(said("stats", encoded["raw"], "--origin", "cifar", "--histograms", "--json"))
    expected = stats(encoded["raw"], origins=["cifar"], histograms=True)
    assert found == expected.to_json()
    assert isinstance(found["mean"], list) and len(found["std"]) == 3
    assert sum(found["histograms"]["cifar10-train"]["red"]) > 0
    text = said("stats", encoded["raw"], "--split", "train+valid", "--class", "cat")
    assert text.startswith("36 images\n"), text
    assert "class: cat" in text and "class: dog" not in text
    assert "0 images have duplicates" in text
    info = json.loads(said("info", encoded["raw"], "--json"))
    assert info["num_samples"] == 540
    assert info["mean"] == list(stats(encoded["png"]).mean)
