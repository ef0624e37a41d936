"""Verifying: an untouched dataset is intact, and any change to it is found and located."""

import itertools
import json
import os
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_demo_tree import make_tree

from cinic_shards.check.faults import Fault, Location
from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, OptionError, StoreError
from cinic_shards.format import MANIFEST_NAME, Index, Manifest
from cinic_shards.read.dataset import Dataset
from cinic_shards.tree.leftovers import Leftovers
from cinic_shards.write.pack import PackOptions, pack
from tests.support.files import flip, write
from tests.support.indexes import Change, rewrite_index, with_key, with_value
from tests.support.odd_pngs import odd_pngs
from tests.support.sampling import sampled

SHARD = "train-00001-of-00003.tar"


def faults_of(shards: Path, **options: object) -> tuple[Fault, ...]:
    return verify(shards, workers=1, **options).faults  # type: ignore[arg-type]


def sidecar_sets() -> list[tuple[str, ...]]:
    return [("cls",), (), ("json",), ("cls", "json")]


@pytest.mark.parametrize(
    ("sidecars", "shard_size"), sampled(itertools.product(sidecar_sets(), [1, 40, 2]))
)
def test_a_new_dataset_is_intact(
    demo_tree: Path, tmp_path: Path, sidecars: tuple[str, ...], shard_size: int
) -> None:
    tree = demo_tree
    if shard_size == 1:
        tree = tmp_path / "tree"
        make_tree(tree, per_class=1, seed=3)
    pack(tree, tmp_path / "out", PackOptions(shard_size=shard_size, sidecars=sidecars), workers=1)
    seen: list[tuple[str, int, int]] = []
    found = verify(
        tmp_path / "out",
        against=tree,
        workers=1,
        progress=lambda doing, done, total: seen.append((doing, done, total)),
    )
    assert found.faults == () and found.is_whole and found.strays == ()
    total = len(list(tree.glob("*/*/*.png")))
    assert found.num_samples == total
    assert seen[0] == ("verify", 0, total) and seen[-1] == ("verify", total, total)


def test_workers_find_the_same(shards: Path) -> None:
    flip(shards / SHARD, 600)
    assert verify(shards, workers=2).faults == verify(shards, workers=1).faults != ()


def test_odd_images_of_many_sizes_have_no_fault(tmp_path: Path) -> None:
    for name, data in odd_pngs().items():
        path = (
            tmp_path / "tree" / "train" / "odd" / f"{name.replace(' ', '_').replace('.', '')}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    pack(tmp_path / "tree", tmp_path / "out", workers=1, warn=lambda text: None)
    assert verify(tmp_path / "out", against=tmp_path / "tree", workers=1).is_whole


@pytest.mark.parametrize("count", [30, pytest.param(150, marks=pytest.mark.real)])
def test_every_changed_byte_is_found_and_located(shards: Path, count: int) -> None:
    """One byte at a time, all over a shard: faults name the shard and, for a sample, its row."""
    dataset = Dataset(shards)
    (split,) = (split for split in dataset.manifest.splits if split.name == "train")
    (info,) = (info for info in split.shards if info.name == SHARD)
    original = (shards / SHARD).read_bytes()
    index_bytes = original[info.index_offset : info.index_offset + info.index_length]
    index = Index.from_bytes(
        index_bytes, location="", end=info.size, num_classes=10, encodings=ENCODINGS
    )
    begins = index.offset.astype(np.int64) - 512
    offsets = random.Random(0).sample(range(len(original)), count)
    offsets += [0, info.index_offset - 512, info.index_offset, len(original) - 1]
    for offset in offsets:
        flip(shards / SHARD, offset)
        faults = faults_of(shards)
        assert {fault.location.file for fault in faults} == {SHARD}
        assert any("SHA-256" in fault.problem for fault in faults)
        if offset < info.index_offset - 512:
            sample = int(np.searchsorted(begins, offset, side="right")) - 1
            assert {fault.location.sample for fault in faults} == {None, sample}, offset
            assert {fault.location.key for fault in faults} == {"", index.keys[sample]}
        (shards / SHARD).write_bytes(original)
    assert faults_of(shards) == ()


def test_a_fault_says_where_and_what(shards: Path) -> None:
    reader = Dataset(shards).split("train")
    key = reader.key(41)
    offset = int(reader._indexes[1].offset[1])
    flip(shards / SHARD, offset + 100)
    _, fault = map(str, faults_of(shards))
    assert fault.startswith(f"{SHARD}, offset {offset}, sample 1 ({key}): CRC-32 is ")
    assert ", the index says " in fault


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard is gone": (lambda shards: (shards / SHARD).unlink(), "unreadable"),
    "a shard is cut": (lambda shards: os.truncate(shards / SHARD, 5000), "unreadable"),
    "a tar header": (lambda shards: flip(shards / SHARD, 0), "digest structure"),
    "a shard's last byte": (lambda shards: flip(shards / SHARD, -1), "digest structure"),
    "a PNG": (lambda shards: flip(shards / SHARD, 700), "digest payload"),
    "an index": (lambda shards: flip(shards / SHARD, -2000), "digest"),
    "a pixel's hash": (
        lambda shards: rewrite_index(shards, with_value("pixel_hash", 3, 0)),
        "pixels",
    ),
    "a manifest": (lambda shards: flip(shards / MANIFEST_NAME, 99), "manifest"),
    "a seed": (lambda shards: rewrite_manifest(shards, options={"seed": 1}), "order"),
}
"""Damage to a dataset, and the kinds of fault that it causes."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_fault_has_a_kind(shards: Path, damage: str) -> None:
    do, kinds = DAMAGE[damage]
    do(shards)
    assert {fault.kind for fault in faults_of(shards)} == set(kinds.split())


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("length", [0, 1, 511, 5000, -1024, -1])
def test_a_cut_shard_is_found(shards: Path, length: int, quick: bool) -> None:
    data = (shards / SHARD).read_bytes()
    (shards / SHARD).write_bytes(data[:length])
    (fault,) = faults_of(shards, quick=quick)
    assert fault.location.file == SHARD
    assert f"{len(data[:length]):,} bytes, the manifest says {len(data):,}" in fault.problem


def test_all_missing_shards_are_listed(shards: Path) -> None:
    for name in (SHARD, "test-00000-of-00003.tar"):
        (shards / name).unlink()
    files = [fault.location.file for fault in faults_of(shards)]
    assert files == ["test-00000-of-00003.tar", SHARD]


def test_a_changed_manifest_is_found(shards: Path) -> None:
    original = (shards / MANIFEST_NAME).read_bytes()
    for offset in random.Random(1).sample(range(len(original)), 200):
        flip(shards / MANIFEST_NAME, offset)
        (fault,) = faults_of(shards)
        assert fault.location.file == MANIFEST_NAME and "reindex" in fault.problem
        (shards / MANIFEST_NAME).write_bytes(original)


LIES: dict[str, Callable[[Manifest], Manifest]] = {
    "fingerprint": lambda m: replace(m, fingerprint="blake2b:" + "0" * 64),
    "block_size": lambda m: replace(m, block_size=7),
    "is that of class": lambda m: replace(m, classes=m.classes[::-1]),
    "options.sidecars is": lambda m: replace(m, options={**m.options, "sidecars": []}),
    "packing order": lambda m: replace(m, options={**m.options, "seed": 1}),
    "splits[test].pixel_sums": lambda m: replace(
        m,
        splits=(
            replace(m.splits[0], pixels=replace(m.splits[0].pixels, sums=(1, 2, 3))),
            *m.splits[1:],
        ),
    ),
    "image_sizes": lambda m: replace(
        m, splits=(replace(m.splits[0], image_sizes={(32, 31): 90}), *m.splits[1:])
    ),
    "splits[test].shards[test-00000-of-00003.tar].origins": lambda m: replace(
        m,
        splits=(
            replace(
                m.splits[0],
                shards=(
                    replace(m.splits[0].shards[0], origins={"unknown": 40}),
                    *m.splits[0].shards[1:],
                ),
            ),
            *m.splits[1:],
        ),
    ),
}
"""Part of the fault's text -> a manifest with a valid digest and wrong content."""


@pytest.mark.parametrize("said", LIES)
def test_a_manifest_that_contradicts_its_shards_is_found(shards: Path, said: str) -> None:
    manifest = Dataset(shards).manifest
    (shards / MANIFEST_NAME).write_bytes(LIES[said](manifest).to_bytes())
    faults = faults_of(shards)
    assert any(said in str(fault) for fault in faults)


def test_shards_out_of_order_are_found(shards: Path) -> None:
    first, *others = Dataset(shards).manifest.splits
    one, two, three = first.shards
    rewrite_manifest(shards, splits=(replace(first, shards=(two, one, three)), *others))
    (fault,) = faults_of(shards)
    assert f"{two.name}' is not a valid shard name, expected {one.name}" in str(fault)


@pytest.mark.parametrize("quick", [False, True])
def test_swapped_shards_are_found(shards: Path, quick: bool) -> None:
    """Their files are swapped, and the manifest describes them as they are."""
    first, *others = Dataset(shards).manifest.splits
    one, two, three = first.shards
    swap(shards / one.name, shards / two.name)
    swapped = (replace(two, name=one.name), replace(one, name=two.name), three)
    rewrite_manifest(shards, splits=(replace(first, shards=swapped), *others))
    (fault,) = faults_of(shards, quick=quick)
    assert (fault.kind, str(fault)) == ("order", f"{two.name}: belongs before {one.name}")


def swap(one: Path, two: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def rewrite_manifest(shards: Path, **fields: object) -> None:
    """Replace fields of the manifest, with a valid digest."""
    manifest = replace(Dataset(shards).manifest, **fields)  # type: ignore[arg-type]
    (shards / MANIFEST_NAME).write_bytes(manifest.to_bytes())


INDEX_LIES: dict[str, tuple[Callable[[Index], Index], str]] = {
    "label": (with_value("label", 3, 9), "is that of class|sidecar"),
    "origin": (with_value("origin", 3, 0), "its name says"),
    "synset": (with_value("synset", 3, 12345678), "its name says"),
    "number": (with_value("number", 3, 7), "its name says"),
    "pixel hash": (with_value("pixel_hash", 3, 0), "its pixels' hash is"),
    "crc32": (with_value("crc32", 3, 0), "CRC-32 is"),
    "length": (with_value("length", 3, 60), "is not that of this shard"),
    "key of another split": (with_key(3, "test/cat/x"), "expected train/"),
    "key that climbs": (with_key(3, "train/../x"), "starts with a dot"),
    "key twice": (lambda i: with_key(3, i.keys[4])(i), "the same key"),
    "key of another class": (
        lambda i: with_key(3, "train/other/" + i.keys[3].split("/")[2])(i),
        "of the header|is that of",
    ),
}


@pytest.mark.parametrize("lie", INDEX_LIES)
def test_a_wrong_index_is_found(shards: Path, lie: str) -> None:
    change, said = INDEX_LIES[lie]
    rewrite_index(shards, change)
    faults = faults_of(shards)
    assert any(fault.location.file == SHARD for fault in faults)
    assert any(part in str(fault) for fault in faults for part in said.split("|"))


def test_against_a_different_tree(demo_tree: Path, demo_shards: Path, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    changed, missing = sorted(tree.glob("train/cat/*.png"))[:2]
    data = changed.read_bytes()
    changed.write_bytes(data[:-20] + b"other bytes, as many"[:20])
    missing.unlink()
    shutil.copy(changed, tree / "train" / "cat" / "added.png")
    faults = faults_of(demo_shards, against=tree)
    said = "\n".join(map(str, faults))
    assert [fault.kind for fault in faults] == ["tree"] * 3
    assert faults[-1].location == Location("train/cat/added.png")
    assert f"differ from the {len(data)} bytes of {changed} from byte {len(data) - 20} on" in said
    assert f"{missing}: No such file" in said
    assert str(faults[-1]) == (
        f"train/cat/added.png: in {tree}, not in the dataset, expected in both; pack the tree again"
    )


def test_a_suffix_in_capitals_is_the_same_image(demo_tree: Path, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    path = sorted(tree.glob("train/cat/*.png"))[0]
    path.rename(path.with_suffix(".PNG"))
    pack(tree, tmp_path / "out", workers=1, warn=lambda text: None)
    assert verify(tmp_path / "out", against=tree, workers=1).is_whole


def test_files_beside_the_dataset_are_listed(shards: Path) -> None:
    (shards / "notes.txt").write_text("mine")
    found = verify(shards, workers=1)
    assert found.is_whole and found.strays == ("notes.txt",)


def test_quick_checks_digests_and_indexes(shards: Path) -> None:
    assert verify(shards, quick=True, workers=1).is_whole
    flip(shards / SHARD, 700)
    (fault,) = faults_of(shards, quick=True)
    assert "its SHA-256 is" in fault.problem


def test_invalid_arguments_are_rejected(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="quick compares no images"):
        verify(shards, quick=True, against=tmp_path)
    with pytest.raises(OptionError, match="workers=0: "):
        verify(shards, workers=0)
    with pytest.raises(StoreError, match="no dataset; give a folder"):
        verify(tmp_path / "nothing")


# --- Rebuilding the manifest ------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.real)])
def test_the_rebuilt_manifest_is_the_same(shards: Path, workers: int) -> None:
    original = (shards / MANIFEST_NAME).read_bytes()
    (shards / MANIFEST_NAME).unlink()
    with pytest.raises(StoreError, match="cinic-shard reindex rebuilds it from"):
        Dataset(shards)
    reindex(shards, workers=workers)
    assert (shards / MANIFEST_NAME).read_bytes() == original


@pytest.mark.parametrize("sidecars", sidecar_sets())
def test_only_the_seed_is_lost(demo_tree: Path, tmp_path: Path, sidecars: tuple[str, ...]) -> None:
    options = PackOptions(shard_size=40, seed=5, sidecars=sidecars)
    manifest = pack(demo_tree, tmp_path / "out", options, workers=1)
    (tmp_path / "out" / MANIFEST_NAME).write_bytes(b"{}")
    rebuilt = reindex(tmp_path / "out", workers=1)
    known = {name: value for name, value in manifest.options.items() if name != "seed"}
    assert rebuilt == replace(manifest, options=known)
    assert verify(tmp_path / "out", against=demo_tree, workers=1).is_whole


def test_damaged_shards_give_no_manifest(shards: Path) -> None:
    (shards / MANIFEST_NAME).unlink()
    flip(shards / SHARD, 700)
    with pytest.raises(FormatError, match=rf"no manifest was written\n  {SHARD}, offset"):
        reindex(shards, workers=1)
    assert not (shards / MANIFEST_NAME).exists()


def test_faults_of_a_different_seed_are_not_faults_of_order(
    demo_tree: Path, tmp_path: Path
) -> None:
    """The fault's kind decides, not a message that happens to mention the order."""
    name = "out of the packing order"
    tree, shards = tmp_path / "tree", tmp_path / "shards"
    shutil.copytree(demo_tree, tree)
    for folder in tree.glob("*/cat"):
        folder.rename(folder.with_name(name))
    manifest = pack(tree, shards, PackOptions(shard_size=40), workers=1)
    num_shards = sum(len(split.shards) for split in manifest.splits)
    rewrite_index(shards, with_value("label", -1, manifest.classes.index(name)))
    (shards / MANIFEST_NAME).unlink()
    steps: list[str] = []
    with pytest.raises(FormatError, match=f"1 faults(.|\n)*is that of class '{name}"):
        reindex(shards, workers=1, progress=lambda doing, done, total: steps.append(doing))
    assert len(steps) == num_shards

    shutil.rmtree(shards)
    pack(demo_tree, shards, PackOptions(shard_size=40, seed=5), workers=1)
    flip(shards / SHARD, 700)
    steps.clear()
    with pytest.raises(FormatError, match=r"1 faults(.|\n)*CRC-32"):
        reindex(shards, workers=1, progress=lambda doing, done, total: steps.append(doing))
    assert len(steps) == num_shards  # each shard is read once, whatever the seed


def test_missing_shards_give_no_manifest(shards: Path, tmp_path: Path) -> None:
    (shards / SHARD).unlink()
    with pytest.raises(StoreError, match=rf"{SHARD} is missing, and 0 more"):
        reindex(shards, workers=1)
    with pytest.raises(StoreError, match="holds no shard"):
        reindex(tmp_path / "nothing", workers=1)
    (shards / "train-00000-of-00004.tar").write_bytes(b"")
    with pytest.raises(StoreError, match="with 3 and 4 shards"):
        reindex(shards, workers=1)


def test_shards_of_two_datasets_give_no_manifest(shards: Path, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", per_class=2, seed=9)
    shutil.rmtree(tmp_path / "tree" / "train" / "airplane")
    for path in (tmp_path / "tree").glob("*/airplane"):
        shutil.rmtree(path)
    pack(tmp_path / "tree", tmp_path / "other", workers=1)
    for path in shards.glob("train-*"):
        path.unlink()
    shutil.copy(next((tmp_path / "other").glob("train-*")), shards)
    with pytest.raises(FormatError, match="are not of one dataset"):
        reindex(shards, workers=1)


def test_a_fault_is_json(shards: Path) -> None:
    flip(shards / SHARD, 700)
    rows = json.loads(json.dumps(verify(shards, workers=1).to_json()))["faults"]
    assert {row["file"] for row in rows} == {SHARD}
    assert [row["kind"] for row in rows] == ["digest", "payload"]
    assert set(rows[0]) == {"file", "offset", "sample", "key", "block", "kind", "problem"}


# --- What reindex cannot take -----------------------------------------------------------------


def copy_over(shards: Path, source: int, target: int) -> None:
    name = "train-0000{}-of-00003.tar"
    shutil.copy(shards / name.format(source), shards / name.format(target))


def swap_two(shards: Path, one: int, two: int) -> None:
    name = "train-0000{}-of-00003.tar"
    swap(shards / name.format(one), shards / name.format(two))


SEQUENCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard is there twice": (
        lambda shards: copy_over(shards, 0, 1),
        r"train-00001-of-00003\.tar: .*(same samples as|too|belongs before|such as)",
    ),
    "two shards are swapped": (
        lambda shards: swap_two(shards, 0, 1),
        r"train-00001-of-00003\.tar: belongs before train-00000-of-00003\.tar",
    ),
    "the last shard is swapped": (
        lambda shards: swap_two(shards, 1, 2),
        r"train-00001-of-00003\.tar: 10 samples, other shards have 40",
    ),
    "the last shard is a copy": (
        lambda shards: copy_over(shards, 0, 2),
        r"train-00002-of-00003\.tar",
    ),
}
"""Changes to the files of a split, and what reindex says. It writes no manifest."""


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("change", SEQUENCES)
def test_reindex_rejects_shards_in_the_wrong_position(
    demo_tree: Path, tmp_path: Path, change: str, encoding: str, seed: int
) -> None:
    do, said = SEQUENCES[change]
    shards = tmp_path / "shards"
    options = PackOptions(encoding=encoding, shard_size=40, block_size=16, seed=seed)
    pack(demo_tree, shards, options, workers=1)
    (shards / MANIFEST_NAME).unlink()
    do(shards)
    if (encoding, change, seed) == ("png", "two shards are swapped", 5):
        # Shards of PNGs do not have their number in them, and the seed is known to nobody.
        assert "seed" not in reindex(shards, workers=1).options
        return
    with pytest.raises(FormatError) as caught:
        reindex(shards, workers=1)
    if not ENCODINGS[encoding].has_blocks:
        assert re.search(said, str(caught.value))
    assert not (shards / MANIFEST_NAME).exists()


def swap_names(index: Index) -> Index:
    """Swap the names of two samples of a class."""
    rows = np.flatnonzero(index.label == index.label[3])[:2]
    order = np.arange(len(index))
    order[rows] = rows[::-1]
    columns = {name: getattr(index, name)[order] for name in ("origin", "synset", "number")}
    return replace(index, keys=[index.keys[row] for row in order], **columns)


def test_reindex_does_not_take_a_changed_order_for_a_different_seed(
    packed: dict[str, Path], tmp_path: Path
) -> None:
    """Two samples have swapped names; most others still show that the seed is 0."""
    shards = Path(shutil.copytree(packed["raw"], tmp_path / "shards"))
    rewrite_index(shards, swap_names)
    (shards / MANIFEST_NAME).unlink()
    with pytest.raises(FormatError, match="out of the packing order of seed 0"):
        reindex(shards, workers=1)


@pytest.mark.parametrize("change", [swap_names, with_value("crc32", slice(0, 3), 7)])
def test_reindex_counts_the_faults_that_are_too_many_to_list(
    packed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    shards = Path(shutil.copytree(packed["raw"], tmp_path / "shards"))
    rewrite_index(shards, change)
    (shards / MANIFEST_NAME).unlink()
    with pytest.raises(FormatError) as caught:
        reindex(shards, workers=1)
    (count,) = re.findall("([0-9]+) faults in the shards; no manifest was", str(caught.value))
    assert int(count) > 1
    monkeypatch.setattr("cinic_shards.check.faults._MAX_FAULTS", 1)
    with pytest.raises(FormatError, match=f"{count} faults in the shards; no manifest was"):
        reindex(shards, workers=1)


def test_a_manifest_without_a_seed(demo_tree: Path, shards: Path, tmp_path: Path) -> None:
    """It must state seed 0, which the shards show; of a different seed the order is unknown."""
    options = {**Dataset(shards).manifest.options}
    del options["seed"]
    rewrite_manifest(shards, options=options)
    (fault,) = faults_of(shards)
    assert "options.seed is missing, expected 0" in fault.problem
    pack(demo_tree, tmp_path / "other", PackOptions(shard_size=40, seed=5), workers=1)
    rewrite_manifest(tmp_path / "other", options=options)
    found = verify(tmp_path / "other", workers=1)
    assert found.is_whole and found.order_is_unknown
    copy_over(tmp_path / "other", 0, 1)
    assert not verify(tmp_path / "other", workers=1).is_whole


# --- Against a tree: nothing is lost if it is deleted -------------------------------------------


def test_other_files_of_the_tree_are_listed(
    demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    write(tree, "labels.csv", "train/cat/notes.txt", ".git/HEAD", "train/cat/.hidden.png")
    write(tree, ".DS_Store", "train/._cat", "train/cat/Thumbs.db")
    (tree / "extra" / "dodo").mkdir(parents=True)
    expected = Leftovers(
        (".git/HEAD", "labels.csv", "train/cat/.hidden.png", "train/cat/notes.txt"), ("extra",), 3
    )
    found = verify(demo_shards, against=tree, workers=1)
    assert found.is_whole and found.leftovers == expected
    with tarfile.open(tmp_path / "tree.tar", "w") as archive:
        archive.add(tree, ".")
    assert verify(demo_shards, against=tmp_path / "tree.tar", workers=1).leftovers == expected
    assert verify(demo_shards, workers=1).leftovers is None


def test_links_in_the_tree_are_not_followed(
    demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    write(tmp_path / "elsewhere", "a.txt")
    for folder in demo_tree.iterdir():
        (tree / folder.name).symlink_to(folder)
    (tree / "link").symlink_to(tmp_path / "elsewhere")
    found = verify(demo_shards, against=tree, workers=1)
    assert found.is_whole and found.leftovers == Leftovers(("link",), (), 0)


def test_many_images_that_were_never_packed(
    demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    write(tree, *(f"train/cat/new-{number:03}.png" for number in range(30)), "train/dog/one.png")
    cats, dog = faults_of(demo_shards, against=tree)
    assert cats.location == Location("train/cat/") and "30 images (new-000.png, " in cats.problem
    assert dog.location == Location("train/dog/one.png")


def test_damage_does_not_hide_a_different_tree(
    packed: dict[str, Path], demo_tree: Path, tmp_path: Path
) -> None:
    """One sample of a block is damaged; two others differ from their files."""
    shards = Path(shutil.copytree(packed["raw"], tmp_path / "shards"))
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    index = Dataset(shards).split("train")._indexes[0]
    flip(shards / "train-00000-of-00003.tar", int(index.offset[0]) + 128 + 3 * 3072)
    for row in (5, 6):
        shutil.copy(tree / f"{index.keys[7]}.png", tree / f"{index.keys[row]}.png")
    faults = faults_of(shards, against=tree)
    assert [(f.kind, f.location.sample) for f in faults if f.location.key] == [
        ("pixels", 3), ("tree", 5), ("tree", 6)
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["index", "missing"])
def test_images_of_a_shard_that_cannot_be_read_are_not_called_unpacked(
    demo_tree: Path, shards: Path, tmp_path: Path, damage: str
) -> None:
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    write(tree, "train/cat/new.png", "test/cat/new.png")
    if damage == "missing":
        (shards / SHARD).unlink()
    else:
        flip(shards / SHARD, (shards / SHARD).stat().st_size - 2000)
    *others, in_test, in_train = faults_of(shards, against=tree)
    assert {fault.location.file for fault in others} == {SHARD}
    assert in_test.location == Location("test/cat/new.png")
    assert str(in_train) == (
        f"train/: 41 images in {tree} could not be compared, because {SHARD} (40 samples) cannot "
        "be read"
    )


def test_many_shards_that_cannot_be_read(demo_tree: Path, demo_shards: Path) -> None:
    shards = Path(shutil.copytree(demo_shards, demo_shards.parent / "unreadable"))
    for path in shards.glob("train*"):
        path.unlink()
    *others, fault = faults_of(shards, against=demo_tree)
    assert len(others) == 3
    assert fault.problem.endswith(
        "because train-00000-of-00003.tar, train-00001-of-00003.tar, train-00002-of-00003.tar "
        "(90 samples) cannot be read"
    )
