"""Parts of datasets: the same bytes as from the same part of the tree, with the old labels."""

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.codec.raw import RawEncoding
from cinic_shards.codec.zstd import ZstdEncoding
from cinic_shards.errors import (
    FormatError,
    OptionError,
    OutputError,
    StoreError,
    TreeError,
)
from cinic_shards.format import Manifest
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.subset import Subset
from cinic_shards.store import open_store
from cinic_shards.write import dataset as dataset_writer
from cinic_shards.write.convert import convert
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.select import select, select_tree
from cinic_shards.write.splits import NewSplit, parse_splits
from cinic_shards.write.unpack import unpack
from tests.support.command import Run
from tests.support.files import files_of
from tests.support.sampling import sampled

ENCODINGS = ("png", "zstd", "raw")
KNOWN = ("test", "train", "valid")


def silent(text: str) -> None:
    """Ignore a warning."""


def sha256s(manifest: Manifest) -> dict[str, str]:
    return {shard.name: shard.sha256 for split in manifest.splits for shard in split.shards}


def keys_of(place: Any) -> list[str]:
    found: list[str] = Dataset(place).columns.keys.tolist()
    return found


def subtree(tree: Path, out: Path, keep: Callable[[str], str | None]) -> Path:
    """Copy the files for which ``keep`` returns a new key."""
    for path in tree.glob("*/*/*.png"):
        key = keep(path.relative_to(tree).as_posix().removesuffix(".png"))
        if key is not None:
            (out / key).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out / f"{key}.png")
    return out


def joined(key: str) -> str | None:
    split, _, rest = key.partition("/")
    return f"{'train' if split == 'valid' else split}/{rest}"


def cifar_of_train(key: str) -> str | None:
    return key if key.startswith("train/") and "cifar" in key else None


SELECTIONS: dict[str, tuple[list[str], dict[str, Any], Callable[[str], str | None]]] = {
    "joined": (["train=train+valid", "test"], {}, joined),
    "an origin": (["train"], {"origin": "cifar"}, cifar_of_train),
    "all of it": ([], {}, lambda key: key),
    "a name": (["x=valid"], {}, lambda k: k.replace("valid", "x", 1) if "valid/" in k else None),
}


@pytest.mark.parametrize(("name", "encoding"), sampled(itertools.product(SELECTIONS, ENCODINGS)))
def test_the_shards_are_those_of_packing_part_of_the_tree(
    name: str, encoding: str, encoded: dict[str, Path], encoded_tree: Path, tmp_path: Path
) -> None:
    splits, options, keep = SELECTIONS[name]
    found = select(
        encoded[encoding], tmp_path / "out", splits=splits, subset=Subset(**options),
        shard_size=50, workers=1,
    )  # fmt: skip
    tree = subtree(encoded_tree, tmp_path / "tree", keep)
    packing = PackOptions(encoding=encoding, shard_size=50, block_size=16)
    expected = pack(tree, tmp_path / "packed", packing, workers=1)
    assert sha256s(found) == sha256s(expected)
    assert found.fingerprint == expected.fingerprint and found.splits == expected.splits
    assert verify(tmp_path / "out", against=tree, workers=1).is_whole
    (tmp_path / "out" / "manifest.json").unlink()
    assert reindex(tmp_path / "out", workers=1).splits == found.splits
    assert verify(tmp_path / "out", workers=1).is_whole


@pytest.mark.real
def test_workers_do_not_matter(encoded: dict[str, Path], tmp_path: Path) -> None:
    one = select(encoded["zstd"], tmp_path / "one", splits=["a=train+valid"], workers=1)
    two = select(encoded["zstd"], tmp_path / "two", splits=["a=train+valid"], workers=2)
    assert one.to_bytes() == two.to_bytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_class_without_samples_keeps_its_label(
    encoding: str, encoded: dict[str, Path], tmp_path: Path
) -> None:
    """All shards then state the classes, so that the manifest can be rebuilt."""
    parent = Dataset(encoded[encoding])
    subset = Subset(classes=["cat", "truck"])
    found = select(encoded[encoding], tmp_path / "out", subset=subset, workers=1)
    assert found.classes == parent.manifest.classes
    columns = Dataset(tmp_path / "out").columns
    assert set(columns.labels.tolist()) == {3, 9} and len(columns) == 3 * 2 * 18
    before = dict(zip(parent.columns.keys, parent.columns.pixel_hash, strict=True))
    assert all(before[key] == h for key, h in zip(columns.keys, columns.pixel_hash, strict=True))
    assert verify(tmp_path / "out", workers=1).is_whole
    (tmp_path / "out" / "manifest.json").unlink()
    again = reindex(tmp_path / "out", workers=1)
    assert again.classes == found.classes and again.fingerprint == found.fingerprint
    assert verify(tmp_path / "out", workers=1).is_whole
    converted = convert(tmp_path / "out", tmp_path / "png", encoding="png", workers=1, warn=silent)
    assert converted.classes == found.classes
    assert verify(tmp_path / "png", workers=1).is_whole
    third = select(tmp_path / "out", tmp_path / "third", splits=["test"], workers=1)
    assert third.classes == found.classes and verify(tmp_path / "third", workers=1).is_whole


def test_shards_that_state_different_classes(encoded: dict[str, Path], tmp_path: Path) -> None:
    cats, all_of = tmp_path / "cats", tmp_path / "all"
    select(encoded["png"], cats, splits=["test"], subset=Subset(classes=["cat"]), workers=1)
    select(encoded["png"], all_of, splits=["train"], workers=1)
    store = open_store(cats)
    manifest = Dataset(cats).manifest
    lie = replace(manifest, classes=("ant", *manifest.classes[1:]))
    with store.create("manifest.json") as file:
        file.write(lie.to_bytes())
    (fault,) = verify(cats, workers=1).faults
    assert "classes is" in fault.problem
    for shard in cats.glob("*.tar"):
        shutil.copy(shard, all_of)
    with pytest.raises(FormatError, match="different lists of classes, or only some"):
        reindex(all_of, workers=1)


def test_the_manifest_names_its_parent(encoded: dict[str, Path], tmp_path: Path) -> None:
    subset = Subset(
        classes=("cat", "dog"),
        origin="imagenet",
        fraction=0.5,
        seed=3,
        exclude_duplicates_of="test",
    )
    found = select(
        encoded["raw"], tmp_path / "x", splits=["train+valid"], subset=subset, shard_size=50,
        workers=1,
    )  # fmt: skip
    parent = found.options["parent"]
    assert parent["fingerprint"] == Dataset(encoded["raw"]).manifest.fingerprint
    assert parent["selection"] == {
        "splits": {"train-valid": ["train", "valid"]},
        "classes": ["cat", "dog"],
        "origin": "imagenet",
        "exclude_duplicates_of": "test",
        "fraction": 0.5,
        "seed": 3,
    }
    assert parent["samples"].startswith("blake2b:")
    assert {key: found.options[key] for key in ("seed", "shard_size", "sidecars")} == {
        "seed": 0, "shard_size": 50, "sidecars": [],
    }  # fmt: skip


def test_a_fraction_is_the_same_as_in_the_loader(encoded: dict[str, Path], tmp_path: Path) -> None:
    from cinic_shards.read.selection import select as choose

    dataset, subset = Dataset(encoded["png"]), Subset(fraction=0.25, seed=5)
    select(encoded["png"], tmp_path / "x", splits=["train"], subset=subset, workers=1)
    reader = dataset.split("train")
    rows = choose(dataset, reader, subset).rows
    assert rows is not None and len(rows) == 10 * 5
    assert keys_of(tmp_path / "x") == [reader.key(row) for row in rows.tolist()]


def test_duplicates_of_another_split_are_left_out(encoded_tree: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(encoded_tree, tmp_path / "tree")
    twins = sorted((tree / "test" / "cat").iterdir())[:3]
    for number, twin in enumerate(twins):
        shutil.copy(twin, tree / ("train", "valid")[number % 2] / "dog" / f"twin{number}.png")
    pack(tree, tmp_path / "shards", workers=1, warn=silent)
    subset = Subset(exclude_duplicates_of="test")
    select(tmp_path / "shards", tmp_path / "out", subset=subset, workers=1)
    lost = set(keys_of(tmp_path / "shards")) - set(keys_of(tmp_path / "out"))
    assert lost == {"train/dog/twin0", "valid/dog/twin1", "train/dog/twin2"}
    with pytest.raises(OptionError, match="exclude_duplicates_of='test': only other splits"):
        select(tmp_path / "shards", tmp_path / "o", splits=["a=test+train"], subset=subset)


def test_sidecars_have_the_new_key(encoded_tree: Path, tmp_path: Path) -> None:
    options = PackOptions(sidecars=("cls", "json"), seed=7, shard_size=30)
    pack(encoded_tree, tmp_path / "shards", options, workers=1)
    found = select(tmp_path / "shards", tmp_path / "out", splits=["a=train+valid"], workers=1)
    assert found.options["seed"] == 7 and found.options["sidecars"] == ["cls", "json"]
    assert verify(tmp_path / "out", workers=1).is_whole


def test_images_of_several_sizes(encoded_tree: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(encoded_tree, tmp_path / "tree")
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(tree / "train" / "cat" / "large.png")
    pack(tree, tmp_path / "shards", workers=1, warn=silent)
    select(tmp_path / "shards", tmp_path / "out", splits=["a=train+valid"], workers=1, warn=silent)
    assert verify(tmp_path / "out", workers=1).is_whole
    assert Dataset(tmp_path / "out").manifest.splits[0].image_sizes == {(32, 32): 360, (50, 40): 1}


def test_blocks_of_more_pixels_than_are_held(
    encoded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = select(encoded["zstd"], tmp_path / "a", splits=["x=train+valid"], workers=1)
    monkeypatch.setattr("cinic_shards.write.samples.packed._HELD_BYTES", 20 * 3072)
    found = select(encoded["zstd"], tmp_path / "b", splits=["x=train+valid"], workers=1)
    assert sha256s(found) == sha256s(expected)


def test_complete_blocks_are_copied(
    encoded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*arguments: Any) -> bytes:
        raise AssertionError("re-encoded")

    monkeypatch.setattr(ZstdEncoding, "encode", encode)
    monkeypatch.setattr(RawEncoding, "encode", encode)
    for encoding in ("zstd", "raw"):
        found = select(encoded[encoding], tmp_path / encoding, splits=["test"], workers=1)
        parent = sha256s(Dataset(encoded[encoding]).manifest)
        assert sha256s(found) == {n: d for n, d in parent.items() if n.startswith("test-")}
        with pytest.raises(AssertionError, match="re-encoded"):
            select(encoded[encoding], tmp_path / "x", splits=["x=test"], workers=1)


def test_at_urls(encoded: dict[str, Path], tmp_path: Path) -> None:
    for encoding in ENCODINGS:
        source, out = f"memory://{uuid4()}/a", f"memory://{uuid4()}/b"
        convert(encoded[encoding], source, encoding=encoding, workers=1)
        said: list[str] = []
        found = select(source, out, splits=["x=train+valid"], workers=1, warn=said.append)
        assert len(said) == 1 and "each shard of x takes samples from many shards" in said[0]
        local = select(encoded[encoding], tmp_path / encoding, splits=["x=train+valid"], workers=1)
        assert sha256s(found) == sha256s(local)
        assert verify(out, workers=1).is_whole


# --- Errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], [("test", "test"), ("train", "train"), ("valid", "valid")]),
        (["train"], [("train", "train")]),
        (["train,test"], [("test", "test"), ("train", "train")]),
        (["train+valid"], [("train-valid", "train valid")]),
        (["all=train+valid", "test"], [("all", "train valid"), ("test", "test")]),
        (["train=valid", "valid=train"], [("train", "valid"), ("valid", "train")]),
        (["train", "a=train+test"], [("a", "train test"), ("train", "train")]),
        ("all=train+valid", [("all", "train valid")]),
        (["val", "dev=train+validation"], [("dev", "train valid"), ("valid", "valid")]),
    ],
)
def test_splits_are_parsed(texts: str | list[str], expected: list[tuple[str, str]]) -> None:
    assert parse_splits(texts, KNOWN, "here") == tuple(
        NewSplit(name, tuple(parts.split())) for name, parts in expected
    )


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["nope"], "here: no split 'nope'; there is test, train, valid"),
        (["train+"], "no split ''"),
        (["a="], "no split ''"),
        (["train+train"], r"split 'train\+train': train is named twice"),
        (["=train"], "'' is not a valid name"),
        (["../x=train"], "'../x' is not a valid name"),
        (["__x=train"], "'__x' is not a valid name"),
        (["train", "train=valid"], "there would be two splits 'train'"),
        (["valid", "dev"], "there would be two splits 'valid'"),
        (["valid+dev"], r"split 'valid\+dev': valid is named twice"),
    ],
)
def test_invalid_splits_are_rejected(texts: list[str], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        parse_splits(texts, KNOWN, "here")


def test_duplicate_keys_are_rejected(encoded_tree: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(encoded_tree, tmp_path / "tree")
    for path in sorted((tree / "train" / "cat").iterdir())[:7]:
        shutil.copy(path, tree / "valid" / "cat")
    pack(tree, tmp_path / "shards", workers=1)
    with pytest.raises(OptionError, match=r"split train-valid: 7 samples have .*: train/cat/.* and "
                       r"valid/cat/.*, \.\.\.; do not join these splits"):  # fmt: skip
        select(tmp_path / "shards", tmp_path / "out", splits=["train+valid"], workers=1)
    assert not (tmp_path / "out").exists()


def test_ids_of_several_splits(encoded: dict[str, Path], tmp_path: Path) -> None:
    columns = Dataset(encoded["raw"]).columns
    chosen = np.flatnonzero(columns.ids % 7 == 3)
    keys = {key for key in columns.keys[chosen].tolist() if not key.startswith("test/")}
    ids = [i for i in chosen.tolist() if columns.split[i] != "test"]
    subset = Subset(ids=ids, exclude_duplicates_of="val")
    said: list[str] = []
    found = select(encoded["raw"], tmp_path / "out", subset=subset, workers=1, warn=said.append)
    assert sorted(keys_of(tmp_path / "out")) == sorted(keys)
    assert said == ["no sample is left of test: this split is not written"]
    selection = found.options["parent"]["selection"]
    assert selection["exclude_duplicates_of"] == "valid"  # as with this name: the same job
    with pytest.raises(OptionError, match=r"ids: 1 of 2 are not in train\+valid: 0; give pos"):
        select(
            encoded["raw"], tmp_path / "x", splits=["train", "dev"], subset=Subset(ids=[0, ids[0]])
        )


def test_an_empty_selection_is_rejected(encoded: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no sample is left by these options"):
        select(encoded["png"], tmp_path / "out", subset=Subset(origin="unknown"), workers=1)
    said: list[str] = []
    subset = Subset(origin="cifar-test")
    found = select(encoded["png"], tmp_path / "out", subset=subset, workers=1, warn=said.append)
    assert said == ["no sample is left of train, valid: this split is not written"]
    assert [split.name for split in found.splits] == ["test"]


def test_invalid_outputs_are_rejected(encoded: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is the input dataset"):
        select(encoded["png"], encoded["png"], workers=1, overwrite=True)
    with pytest.raises(OptionError, match="a web server cannot be written"):
        select(encoded["png"], "http://127.0.0.1:9/x", workers=1)
    with pytest.raises(StoreError, match="no dataset"):
        select(tmp_path, tmp_path / "out", workers=1)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").touch()
    with pytest.raises(OutputError, match="holds file and 0 more, but no dataset"):
        select(encoded["png"], tmp_path / "x", workers=1)
    with pytest.raises(OptionError, match="no class 'bat'"):
        select(encoded["png"], tmp_path / "out", subset=Subset(classes=["bat"]), workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_damaged_samples_are_named(encoding: str, encoded: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(encoded[encoding], tmp_path / "shards")
    path = copy / "train-00001-of-00004.tar"
    data = bytearray(path.read_bytes())
    data[2000:2010] = bytes(byte ^ 0xFF for byte in data[2000:2010])
    path.write_bytes(data)
    for splits in (["a=train+valid"], ["train"]):
        with pytest.raises(TreeError, match=r"train-00001-of-00004.tar: sample \d+ \(train/"):
            select(copy, tmp_path / "out", splits=splits, workers=1)
        assert not (tmp_path / "out").exists()


def test_the_same_command_resumes(
    encoded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a worker was killed; a different selection is rejected."""
    out, subset = tmp_path / "out", Subset(fraction=0.5)
    expected = select(
        encoded["png"], tmp_path / "x", splits=["a=train+valid"], subset=subset, workers=1
    )
    made: list[str] = []
    write_shard = dataset_writer.write_shard

    def counted(job: Any) -> Any:
        made.append(job.name)
        if len(made) == 3:
            raise dataset_writer.BrokenExecutor("killed")
        return write_shard(job)

    monkeypatch.setattr(dataset_writer, "write_shard", counted)
    with pytest.raises(OutputError, match="packing did not finish, a worker process died"):
        select(encoded["png"], out, splits=["a=train+valid"], subset=subset, workers=1)
    with pytest.raises(OutputError, match="an unfinished packing job was started with"):
        select(encoded["png"], out, splits=["a=train+valid"], workers=1)
    found = select(encoded["png"], out, splits=["a=train+valid"], subset=subset, workers=1)
    assert found.to_bytes() == expected.to_bytes()
    assert set(made) == set(sha256s(found)) and made.count(made[0]) == made.count(made[1]) == 1


# --- Trees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_as_a_tree(
    encoding: str, encoded: dict[str, Path], encoded_tree: Path, tmp_path: Path
) -> None:
    expected = files_of(subtree(encoded_tree, tmp_path / "expected", joined))
    splits = ["train=train+valid", "test"]
    done = select_tree(encoded[encoding], tmp_path / "out", splits=splits, workers=1)
    assert (done.num_written, done.num_kept) == (540, 0)
    found = files_of(tmp_path / "out")
    assert found.keys() == expected.keys()
    if encoding == "png":
        assert found == expected
    again = select_tree(encoded[encoding], tmp_path / "out", splits=splits, workers=1)
    assert (again.num_written, again.num_kept) == (0, 540)


def test_a_split_can_be_in_two_new_splits(encoded: dict[str, Path], tmp_path: Path) -> None:
    splits = ["train", "a=train+test"]
    select_tree(encoded["png"], tmp_path / "tree", splits=splits, workers=2)
    select(encoded["png"], tmp_path / "out", splits=splits, workers=1)
    assert verify(tmp_path / "out", against=tmp_path / "tree", workers=1).is_whole
    assert len(keys_of(tmp_path / "out")) == 540


def test_as_links(encoded: dict[str, Path], encoded_tree: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(encoded_tree, tmp_path / "tree")
    first = sorted((tree / "valid" / "cat").iterdir())[0]
    first.rename(first.with_suffix(".PNG"))
    splits, out = ["train+valid"], tmp_path / "out"
    steps: list[int] = []
    done = select_tree(
        encoded["zstd"], out, splits=splits, symlink_to=tree, progress=lambda *s: steps.append(s[1])
    )
    assert (done.num_written, done.num_kept) == (360, 0)
    links = sorted(out.glob("*/*/*.png"))
    assert len(links) == 360 and all(os.path.islink(link) for link in links)
    assert {link.resolve() for link in links} == {
        path.resolve() for split in ("train", "valid") for path in tree.glob(f"{split}/*/*")
    }
    again = select_tree(encoded["zstd"], out, splits=splits, symlink_to=tree)
    assert (again.num_written, again.num_kept) == (0, 360)

    links[0].unlink()
    links[0].write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"holds different files for 1 images: train-valid/"):
        select_tree(encoded["zstd"], out, splits=splits, symlink_to=tree)
    assert links[0].read_bytes() == b"mine"
    for path in sorted((tree / "train" / "dog").iterdir())[:6]:
        path.unlink()
    with pytest.raises(OutputError, match=r"no file for 6 images: train/dog/.*, \.\.\.; unpack"):
        select_tree(encoded["zstd"], tmp_path / "new", splits=["train"], symlink_to=tree)
    assert not (tmp_path / "new").exists()


def test_links_do_not_leave_the_folder(encoded: dict[str, Path], tmp_path: Path) -> None:
    unpack(encoded["png"], tmp_path / "tree", splits=["test"], workers=1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="a symbolic link, expected a folder"):
        select_tree(encoded["png"], tmp_path / "out", splits=["test"], symlink_to=tmp_path / "tree")
    assert not list((tmp_path / "elsewhere").iterdir())


# --- The command ------------------------------------------------------------------------------


def test_the_command(
    encoded: dict[str, Path], encoded_tree: Path, tmp_path: Path, run: Run
) -> None:
    part = partial(run, "select")
    shards = encoded["png"]
    status, out, err = part(shards, tmp_path / "a", "--split", "train=train+valid,test")
    assert (status, err) == (0, "") and out.startswith("540 images in 12 shards, ")
    status, out, err = part(shards, tmp_path / "b", "--split", "test", "--tree", "--workers", 1)
    assert (status, err) == (0, "") and out.startswith("180 files, ")
    options = ["--class", "cat", "--class", "dog", "--fraction", "0.5", "--seed", "1"]
    status, out, err = part(shards, tmp_path / "c", *options, "--symlink-to", encoded_tree)
    assert (status, err) == (0, "") and out.startswith("54 links, ")
    assert part(shards, tmp_path / "d", "--origin", "cifar", "-q", "--workers", 1) == (
        0,
        "",
        "",
    )
    assert len(keys_of(tmp_path / "d")) == 120
    status, _, err = part(shards, tmp_path / "e", "--tree", "--overwrite")
    assert status == 2 and "--executor and --overwrite are for shards" in err
    status, _, err = part(shards, tmp_path / "e", "--split", "nope")
    assert status == 2
    assert err == f"error: {shards}: no split 'nope'; there is test, train, valid\n"
    status, _, err = part(shards, tmp_path / "d")
    assert status == 1 and "already holds a dataset; --overwrite replaces it" in err
