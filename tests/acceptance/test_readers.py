"""Other people's readers read the shards, archives are packed like trees, and parts like wholes."""

import gc
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.Image import Image

from cinic_shards.codec import ENCODINGS
from cinic_shards.format import MANIFEST_NAME
from cinic_shards.format.provenance import parse_stem
from cinic_shards.loader.bench import import_torchvision
from cinic_shards.read.dataset import Dataset
from tests.acceptance.trees import Record, Tree, cinic_shard, differences
from tests.support.files import digests


@pytest.fixture(scope="session")
def with_json(tree: Tree) -> Path:
    """Shards with JSON sidecars too."""
    out = tree.scratch / "json"
    cinic_shard("pack", tree.folder, out, "--quiet", "--sidecars", "cls,json", *tree.options)
    return out


def sidecars_of(tree: Tree) -> dict[str, dict[str, Any]]:
    """Expected JSON sidecar of each image, from names alone, by ImageFolder's rule."""
    classes = sorted({path.name for path in tree.folder.glob("*/*")})
    found = {}
    for key in tree.keys:
        _, class_name, stem = key.split("/")
        origin = parse_stem(stem)
        found[key] = {
            "key": key,
            "class": class_name,
            "label": classes.index(class_name),
            "origin": origin.origin,
            "synset": origin.synset,
            "number": origin.number,
        }
    return found


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset(tree: Tree, with_json: Path, record_property: Record) -> None:
    """Does stock webdataset read every sample once: pixels, labels, keys, and JSON sidecars?"""
    import webdataset

    expected = sidecars_of(tree)
    row_of = {key: row for row, key in enumerate(tree.keys)}

    def read(shards: Path, *handlers: str) -> Any:
        urls = sorted(map(str, shards.glob("*.tar")))
        return webdataset.WebDataset(urls, shardshuffle=False).decode(*handlers)

    seen: Counter[str] = Counter()
    image: Image
    for image, label, key in read(tree.packed(), "pil").to_tuple("png", "cls", "__key__"):
        assert label == expected[key]["label"], key
        assert np.array_equal(np.asarray(image), tree.pixels[row_of[key]]), f"{key}: other pixels"
        seen[key] += 1
    assert seen == Counter(tree.keys)
    seen.clear()
    for key, label, values in read(with_json).to_tuple("__key__", "cls", "json"):
        assert (values, label) == (expected[key], expected[key]["label"]), key
        seen[key] += 1
    assert seen == Counter(tree.keys)
    record_property("samples", [len(seen)] * 2)
    gc.collect()  # webdataset leaves its last file open


@pytest.mark.parametrize("sidecars", ["cls", "cls,json"])
def test_stock_datasets(
    tree: Tree, with_json: Path, sidecars: str, tmp_path: Path, record_property: Record
) -> None:
    """Does stock datasets read every sample once: bytes, labels, keys, and JSON sidecars?"""
    import_torchvision()  # datasets looks for it, and a CPU build of torch needs our help there
    import datasets

    expected = sidecars_of(tree)
    shards = tree.packed() if sidecars == "cls" else with_json
    datasets.disable_progress_bars()
    splits = datasets.load_dataset("webdataset", data_dir=str(shards), cache_dir=str(tmp_path))
    seen: Counter[str] = Counter()
    for split in splits.values():
        assert ("json" in split.column_names) == ("json" in sidecars)
        for row in split.cast_column("png", datasets.Image(decode=False)):
            key = row["__key__"]
            assert row["cls"] == expected[key]["label"], key
            assert row.get("json", expected[key]) == expected[key], key
            assert row["png"]["bytes"] == tree.path(key).read_bytes(), f"{key}: other bytes"
            seen[key] += 1
    assert seen == Counter(tree.keys)
    record_property("samples", len(seen))


class Watch:
    """The most that files beside the shards take while a job runs."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.most_bytes = self.most_files = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            files = list(self.out.glob("_packing/*.spool"))
            self.most_files = max(self.most_files, len(files))
            sizes = [path.stat().st_size for path in files if path.exists()]
            self.most_bytes = max(self.most_bytes, sum(sizes))


@pytest.mark.parametrize("name", ["tree.tar", "CINIC-10.tar.gz", "tree.zip"])
def test_an_archive_is_packed_like_its_tree(
    tree: Tree, name: str, tmp_path: Path, record_property: Record
) -> None:
    """Has an archive the shards of its tree, with one bounded file aside that does not stay?"""
    archive, out = tree.archive(name), tmp_path / "shards"
    with Watch(out) as watch:
        cinic_shard("pack", archive, out, "--quiet", *tree.options)
    assert differences(digests(out), digests(tree.packed())) == []
    assert watch.most_files <= 1 and not list(tmp_path.rglob("*.spool"))
    png_bytes = sum(tree.path(key).stat().st_size for key in tree.keys)
    assert watch.most_bytes <= png_bytes
    record_property("spool_bytes", watch.most_bytes)
    record_property("png_bytes", png_bytes)
    record_property("archive_bytes", archive.stat().st_size)


def joined(key: str) -> str:
    """The key if valid is part of train."""
    split, _, rest = key.partition("/")
    return f"{'train' if split in ('train', 'valid') else split}/{rest}"


def is_cifar(key: str) -> bool:
    """True for the name of an image of CIFAR-10."""
    return key.rpartition("/")[2].startswith("cifar")


PRODUCTS: dict[str, tuple[list[str], Callable[[str], str | None]]] = {
    "train and valid joined": (["--split", "train=train+valid,test"], joined),
    "CIFAR-10 part": (["--origin", "cifar"], lambda key: key if is_cifar(key) else None),
    "ImageNet part": (["--origin", "imagenet"], lambda key: None if is_cifar(key) else key),
}
"""The notebooks' products: the command's options, and the new key of an image if it is in one."""


@pytest.mark.parametrize("product", PRODUCTS)
def test_select_makes_the_products(
    tree: Tree, product: str, tmp_path: Path, record_property: Record
) -> None:
    """Is a product of ``select`` the same part of the tree, from each encoding?

    From ``png`` its bytes are those of packing that part of the tree. From each encoding ``verify``
    reads every image, and the fingerprint, which covers keys, labels and pixels, is the part's.
    """
    options, new_key = PRODUCTS[product]
    assert tree.options[:1] in ((), ("--shard-size",))
    part = tmp_path / "part"
    counts: Counter[str] = Counter()
    for key in tree.keys:
        if (new := new_key(key)) is not None:
            (part / new).parent.mkdir(parents=True, exist_ok=True)
            (part / f"{new}.png").symlink_to(tree.path(key))
            counts[new.partition("/")[0]] += 1
    cinic_shard("pack", part, tmp_path / "packed", "--quiet", *tree.options)
    packed, out = Dataset(tmp_path / "packed").manifest, tmp_path / "selected"
    for encoding in ENCODINGS:
        cinic_shard("select", tree.packed(encoding), out, *options, *tree.options[:2], "--quiet")
        manifest = Dataset(out).manifest
        assert {split.name: split.num_samples for split in manifest.splits} == counts, encoding
        assert manifest.fingerprint == packed.fingerprint, encoding
        cinic_shard("verify", out)
        if encoding == "png":
            found, expected = digests(out), digests(tmp_path / "packed")
            assert set(differences(found, expected)) <= {MANIFEST_NAME}
        shutil.rmtree(out)
    record_property("images", dict(counts))
