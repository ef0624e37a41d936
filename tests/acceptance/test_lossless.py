"""Nothing is lost: every file, pixel, order and label comes back, by our readers and by others'."""

import os
import random
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cinic_shards import ShardLoader
from cinic_shards.codec import ENCODINGS
from cinic_shards.read.dataset import Dataset
from tests.acceptance.trees import Record, Tree, cinic_shard, decode, differences
from tests.support.command import COMMAND
from tests.support.files import digests, write
from tests.support.odd_pngs import odd_pngs


def test_unpack_and_tar_restore_every_file(
    tree: Tree, tmp_path: Path, record_property: Record
) -> None:
    """Does ``verify --against`` find nothing, and do ``unpack`` and ``tar`` restore every byte?"""
    shards = tree.packed()
    said = cinic_shard("verify", shards, "--against", tree.folder).strip()
    record_property("verify", said.replace(str(tree.folder), "the tree"))
    unpacked, extracted = tmp_path / "unpacked", tmp_path / "extracted"
    cinic_shard("unpack", shards, unpacked, "--quiet")
    extracted.mkdir()
    for shard in shards.glob("*.tar"):
        words = ["tar", "xf", shard, "-C", extracted, "--exclude=__index__", "--exclude=*.cls"]
        subprocess.run(words, check=True)
    assert differences(digests(unpacked), tree.digests) == []
    assert differences(digests(extracted), tree.digests) == []
    record_property("files_restored", len(tree.digests))


def test_bytes_depend_on_neither_workers_nor_listing_order(
    tree: Tree, tmp_path: Path, record_property: Record
) -> None:
    """Has each encoding the same bytes with one worker as with two, and for any order of files?

    The order is that of symbolic links made at random: tmpfs lists by creation.
    """
    jobs = {}
    for encoding in ENCODINGS:  # one worker each: side by side they use two cores
        words = [COMMAND, "pack", tree.folder, tmp_path / encoding, "--encoding", encoding]
        words += ["--workers", "1", "--quiet", *tree.options]
        jobs[encoding] = subprocess.Popen([*map(str, words)])
    statuses = {encoding: job.wait() for encoding, job in jobs.items()}
    assert statuses == dict.fromkeys(ENCODINGS, 0)
    for encoding in ENCODINGS:
        assert differences(digests(tmp_path / encoding), digests(tree.packed(encoding))) == []
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as links:
        num_reordered = shuffled_links(tree, Path(links))
        cinic_shard("pack", links, tmp_path / "shuffled", "--quiet", *tree.options)
    record_property("folders_in_another_order", num_reordered)
    assert num_reordered or not memory.is_dir()
    found = digests(tmp_path / "shuffled")
    assert differences(found, digests(tree.packed())) == []
    record_property("shards_compared", len(found) * (1 + len(ENCODINGS)))


def shuffled_links(tree: Tree, out: Path) -> int:
    """Link to every file in random order; return how many folders list in another order."""
    for key in random.Random(0).sample(tree.keys, len(tree.keys)):
        (out / key).parent.mkdir(parents=True, exist_ok=True)
        (out / f"{key}.png").symlink_to(tree.path(key))
    folders = {os.path.dirname(key) for key in tree.keys}
    return sum(os.listdir(tree.folder / name) != os.listdir(out / name) for name in folders)


def test_pixels_and_order_are_one_in_every_encoding(tree: Tree, record_property: Record) -> None:
    """Are all pixels Pillow's, and order and fingerprint the same, in every encoding?

    As ``list(loader)`` gives them: all batches of a split are held at once.
    """
    folders = [tree.packed(encoding) for encoding in ENCODINGS]
    manifests = [Dataset(folder).manifest for folder in folders]
    assert len({manifest.fingerprint for manifest in manifests}) == 1
    num_images = 0
    for split in manifests[0].splits:
        order: list[int] = []
        for folder in folders:
            loader = ShardLoader(folder, split=split.name, tail="short")
            rows = tree.rows(loader.dataset.split(split.name))
            batches = list(loader)
            ids = [i for batch in batches for i in batch.indices.tolist()]
            order = order or ids
            assert ids == order, f"{folder}: another order in {split.name}"
            for batch in batches:
                images = batch.images.permute(0, 2, 3, 1).numpy()
                expected = tree.pixels[rows[batch.indices.numpy() - split.first_id]]
                assert np.array_equal(images, expected), f"{folder}: {split.name}"
            num_images += len(ids)
    assert num_images == len(ENCODINGS) * len(tree.keys)
    record_property("images_compared", num_images)


def in_order(shards: Path) -> dict[str, NDArray[np.uint8]]:
    """Pixels of each image as the loader gives them without shuffling, by key."""
    found = {}
    for split in Dataset(shards).manifest.splits:
        loader = ShardLoader(shards, split=split.name, shuffle=False)
        reader = loader.dataset.split(split.name)
        for batch in loader:
            images = batch.images.permute(0, 2, 3, 1).numpy()
            for image, i in zip(images, batch.indices.tolist(), strict=True):
                found[reader.key(i - split.first_id)] = image
    return found


def test_pixels_without_shuffling(tree: Tree, record_property: Record) -> None:
    """Are the loader's pixels Pillow's, for every image of the tree, without shuffling?"""
    found = in_order(tree.packed())
    assert found.keys() == set(tree.keys)
    pairs = zip(tree.keys, tree.pixels, strict=True)
    wrong = [key for key, pixels in pairs if not np.array_equal(found[key], pixels)]
    assert wrong == []
    record_property("images_compared", len(found))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_odd_pngs(tmp_path: Path, record_property: Record) -> None:
    """Are the loader's pixels Pillow's for every unusual sort of PNG?"""
    odd = odd_pngs()
    names = {f"train/odd/n{10_000_000 + row}_1": name for row, name in enumerate(odd)}
    for key, name in names.items():
        write(tmp_path / "odd", f"{key}.png", data=odd[name])
    cinic_shard("pack", tmp_path / "odd", tmp_path / "shards", "--quiet")
    found = in_order(tmp_path / "shards")
    assert found.keys() == names.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {key: decode(tmp_path / "odd" / f"{key}.png") for key in names}
    wrong = [name for key, name in names.items() if not np.array_equal(found[key], expected[key])]
    assert wrong == []
    record_property("sorts_of_png", list(odd))
