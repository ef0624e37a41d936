"""One order for any number of ranks and threads; what the order ``window`` reads and mixes."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.studies.order import (
    AWKWARD,
    BATCHES,
    BLOCK_SIZE,
    CASES,
    POWERS_OF_TWO,
    SIZES,
    SMALL_BATCHES,
    Case,
    least,
    quality,
    reads,
    worst_read,
)
from cinic_shards import Augment, ShardLoader, Subset
from cinic_shards.loader.plan import Order
from cinic_shards.read.dataset import Dataset
from tests.acceptance.trees import Record, Tree, started, torchrun

WORLDS = (1, 2, 3, 5, 7, 8, 64)
THREADS = (1, 2, 3, 4)
EPOCHS = 3
SUBSETS: dict[str, dict[str, Any]] = {
    "all": {"tail": "short"},
    "subset": {"tail": "pad", "subset": Subset(origin="imagenet", exclude_duplicates_of="test")},
}


def selected(shards: Path, name: str) -> list[int]:
    """Ids of a subset of ``train``, found without the loader's own selection."""
    columns = Dataset(shards).columns
    of_test = {
        bytes(h) for h, s in zip(columns.pixel_hash, columns.split, strict=True) if s == "test"
    }
    rows = zip(columns.split, columns.origin, columns.pixel_hash, strict=True)
    return [
        i
        for i, (split, origin, pixels) in enumerate(rows)
        if split == "train"
        and (name == "all" or (origin == "imagenet" and bytes(pixels) not in of_test))
    ]


def epoch_of(ranks: list[ShardLoader]) -> tuple[str, list[int]]:
    """The hash of an epoch's global batches, and the ids that count."""
    digest = hashlib.blake2b(digest_size=16)
    ids: list[int] = []
    for step in zip(*ranks, strict=True):  # every rank must have the same number of steps
        for name in ("indices", "labels", "images"):
            joined = torch.cat([getattr(batch, name)[batch.valid] for batch in step])
            digest.update(joined.contiguous().numpy().data)
            if name == "indices":
                ids += joined.tolist()
        digest.update(b"end of a step")
    return digest.hexdigest(), ids


def worlds_to_try(is_large: bool, order: Order) -> list[tuple[str, int, int, int]]:
    """Encoding, ranks, threads and epochs of each run; the first one has all epochs.

    A large tree has every number of ranks and every number of threads, but not all pairs; zstd and
    epochs after the first are run with a few.
    """
    pairs = list(itertools.product(WORLDS, THREADS))
    if is_large:
        pairs = [(world, THREADS[number % 4]) for number, world in enumerate(WORLDS)]
    found = [("raw", *pair, 1 if is_large and pair[0] not in (1, 3) else EPOCHS) for pair in pairs]
    if order == "window":
        num_epochs = 1 if is_large else EPOCHS
        found += [("zstd", world, 2, num_epochs) for world in ((3, 64) if is_large else WORLDS)]
    return found


# The small tree has as many blocks as there are ranks.
@pytest.mark.filterwarnings("ignore:64 ranks together will read the dataset:UserWarning")
@pytest.mark.parametrize("name", SUBSETS)
@pytest.mark.parametrize("order", ["window", "full"])
def test_any_world_gives_the_same_batches(
    small_tree: Tree, order: Order, name: str, record_property: Record
) -> None:
    """Do any ranks and threads give the same global batches, with each sample exactly once?

    The ranks' loaders run side by side; each step's parts are joined and hashed: ids, labels and
    pixels after augmentation.
    """
    expected_ids = selected(small_tree.packed("raw"), name)
    expected: list[str] = []
    runs = worlds_to_try(small_tree.is_large, order)
    for encoding, world, threads, epochs in runs:
        ranks = [
            ShardLoader(
                small_tree.packed(encoding),
                global_batch_size=512,
                order=order,
                augment=Augment(dtype="uint8"),
                workers=threads,
                rank=rank,
                world_size=world,
                check="off",
                **SUBSETS[name],
            )
            for rank in range(world)
        ]
        for number in range(epochs):
            found, ids = epoch_of(ranks)
            if len(expected) == number:
                expected.append(found)
            run = f"{encoding}, {world} ranks of {threads} threads, epoch {number}"
            assert found == expected[number], f"{run}: other batches"
            assert sorted(ids) == expected_ids, f"{run}: other samples"
    assert len(set(expected)) == EPOCHS, "two epochs have one order"
    record_property("runs: encoding, ranks, threads, epochs", runs)
    record_property("samples_in_an_epoch", len(expected_ids))


MAX_READ = 1.3
"""Times the dataset's bytes that all ranks read together, with no more ranks than lanes."""


@pytest.mark.parametrize("name", CASES)
def test_what_all_ranks_read(name: str, record_property: Record) -> None:
    """Do all ranks together read at most 1.3 times the bytes, and hold a block for each lane?

    A rank may hold 3 blocks more. No tree is read.
    """
    case = CASES[name]
    plan = case.plan()
    found = {world: reads(case, world) for world in case.worlds}
    record_property("lanes", plan.num_lanes)
    record_property("times_read", {world: round(read, 2) for world, (read, _) in found.items()})
    record_property("blocks_held", {world: held for world, (_, held) in found.items()})
    for world, (read, held) in found.items():
        assert held <= -(-plan.num_lanes // world) + 3, f"{world} ranks"
        assert world > plan.num_lanes or read <= MAX_READ, f"{world} ranks"


@pytest.mark.parametrize("case", AWKWARD[1::2], ids=lambda case: f"{case.num_samples:,} samples")
def test_batches_that_are_no_multiple_of_lanes(case: Case, record_property: Record) -> None:
    """Do a thousand ranks with any batch size read at most 1.25 times the bytes? No tree is read.

    Release 0.1.0 read 3.7, 6.7 and 22 times as much as the dataset.
    """
    (world,) = case.worlds
    read, held = reads(case, world)
    record_property("times_read", round(read, 2))
    record_property("blocks_held", held)
    assert read <= 1.25
    assert held <= -(-case.plan().num_lanes // world) + 3


@pytest.mark.parametrize("num_samples", SIZES)
def test_powers_of_two_ranks_read_the_least_possible(
    num_samples: int, record_property: Record
) -> None:
    """Do 2 to 8,192 ranks, with twenty batch sizes, read what every plan must read, within 0.1?

    That is at most 1.25 times the bytes while ranks are fewer than a quarter of the blocks.
    """
    num_blocks = -(-num_samples // BLOCK_SIZE)
    found = {
        world: worst_read(num_samples, world, SMALL_BATCHES + BATCHES) for world in POWERS_OF_TWO
    }
    record_property("times_read", found)
    for world, read in found.items():
        assert read <= least(num_blocks, world) + 0.1, f"{world} ranks"
        assert read <= 1.25 or world > num_blocks / 4, f"{world} ranks"


def test_window_mixes_like_a_permutation(record_property: Record) -> None:
    """Has a batch of the order ``window`` blocks of 0.9 lanes, and do samples move far (5 %)?"""
    case = CASES["270,000 samples, G = 512"]
    plan = case.plan()
    order = np.concatenate([plan.rows(step) for step in range(len(plan))])
    true = np.random.default_rng(1).permutation(case.num_samples)[: len(order)]
    window, permutation = quality(case, order), quality(case, true)
    record_property("window", window)
    record_property("permutation", permutation)
    record_property("as_stored", quality(case, np.arange(case.num_samples)))
    assert window["blocks in a batch"] >= 0.9 * plan.num_lanes
    distance = "distance moved, of all samples"
    assert window[distance] == pytest.approx(permutation[distance], rel=0.05)


def test_ddp_trains_and_evaluates_in_step(
    small_tree: Tree, tmp_path: Path, record_property: Record
) -> None:
    """Do four processes under torchrun end with the weights of one, and count each sample once?

    Their weights may differ from one process's by rounding: 1e-3 of the largest one.
    """
    out = tmp_path / "out.json"
    options = ("--standalone", "--nproc-per-node=4")
    words = torchrun("ddp.py", small_tree.packed(), out, options=options)
    with started(words) as process:
        assert process.wait(600) == 0
    found = json.loads(out.read_text())
    record_property("found", found)
    assert found["ranks"] == [found["ranks"][0]] * 4, "ranks with other weights"
    assert found["counts"] == found["alone"]
    assert found["counts"][1] == found["size"]
    assert found["difference"] <= 1e-3
