"""Damage is found and named, hostile files do no harm, and no wrong pixel is ever delivered."""

import json
import random
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from make_demo_tree import make_tree

from cinic_shards.check.verify import verify
from cinic_shards.errors import CinicShardsError
from cinic_shards.format import MANIFEST_NAME
from cinic_shards.loader.batches import OnError
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack
from tests.acceptance.trees import Record
from tests.attacks.attacks import ATTACKS
from tests.attacks.run import fuzz
from tests.support import ROOT

NUM_FLIPS, NUM_CUTS = 300, 50
SECONDS_OF_FUZZING = 3


def pixels_by_id(shards: Path, split: str, on_error: OnError) -> tuple[dict[int, bytes], int]:
    """Every sample's pixels as a fresh loader gives them, and how many it skipped."""
    loader = ShardLoader(
        shards, split=split, batch_size=64, shuffle=False, on_error=on_error, workers=1
    )
    found: dict[int, bytes] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in loader:
            images = batch.images.permute(0, 2, 3, 1).contiguous().numpy()
            found.update(zip(batch.indices.tolist(), map(np.ndarray.tobytes, images), strict=True))
    return found, len(loader.skipped)


def misdelivery(shards: Path, split: str, right: dict[int, bytes], what: str) -> str:
    """Name what a fresh loader does wrong with damaged shards, or return an empty string.

    If the damage is in a sidecar or a tar header, no pixel is wrong, and it may deliver all.
    """
    try:
        found, _ = pixels_by_id(shards, split, "raise")
    except CinicShardsError:
        raised = True
    else:
        raised = False
        if found != right:
            return "wrong pixels, nothing raised"
        if what == "flip in payload":
            return "a changed payload was delivered"
    try:
        found, num_skipped = pixels_by_id(shards, split, "skip")
    except CinicShardsError:
        return "with on_error=skip it raised" if what == "flip in payload" else ""
    if any(right[sample_id] != pixels for sample_id, pixels in found.items()):
        return "with on_error=skip it delivered wrong pixels"
    if len(found) + num_skipped != len(right):
        return f"{len(found)} delivered, {num_skipped} skipped, of {len(right)}"
    return "with on_error=skip it skipped nothing" if raised and not num_skipped else ""


def test_every_damaged_byte_is_found(tmp_path: Path, record_property: Record) -> None:
    """Is each of 300 flipped bytes and 50 truncations found and named, and no wrong pixel given?

    At random positions of shards, indexes and manifest of a drawn dataset. ``verify`` must name
    the file and, inside a payload, the sample; a loader must raise, or skip and count what it
    skips.
    """
    make_tree(tmp_path / "tree", per_class=10, seed=1)
    shards = tmp_path / "shards"
    pack(tmp_path / "tree", shards, PackOptions(shard_size=64), workers=1)
    dataset = Dataset(shards)
    splits = [split.name for split in dataset.manifest.splits]
    right = {split: pixels_by_id(shards, split, "raise")[0] for split in splits}
    parts = {
        info.name: (split, info, index)
        for split in splits
        for info, index in zip(
            dataset.split(split).shards, dataset.split(split)._indexes, strict=True
        )
    }
    chance = random.Random(0)
    counts: Counter[str] = Counter()
    misses = []
    for number in range(NUM_FLIPS + NUM_CUTS):
        # Half of them anywhere in a shard, a quarter in an index, a quarter in the manifest.
        kind = chance.choice(["shard", "shard", "index", "manifest"])
        name = MANIFEST_NAME if kind == "manifest" else chance.choice(sorted(parts))
        split, info, index = parts.get(name, (splits[0], None, None))
        path = shards / name
        data = path.read_bytes()
        at = chance.randrange(len(data))
        if kind == "index":
            at = info.index_offset + chance.randrange(info.index_length)
        is_flip = number < NUM_FLIPS
        damaged = bytearray(data) if is_flip else data[:at]
        if is_flip:
            damaged[at] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        what = f"{'flip' if is_flip else 'cut'} in {kind}"
        faults = verify(shards, workers=1).faults
        is_named = bool(faults) and {fault.location.file for fault in faults} == {name}
        if what == "flip in shard":
            sample = int(np.searchsorted(index.offset, at, side="right")) - 1
            if sample >= 0 and at < index.offset[sample] + index.length[sample]:
                what = "flip in payload"
                is_named &= {fault.location.sample for fault in faults} == {None, sample}
        counts[what] += 1
        if not is_named:
            misses.append(f"verify: {what}, {name} at {at}: {faults[:2]}")
        if problem := misdelivery(shards, split, right[split], what):
            misses.append(f"loader: {what}, {name} at {at}: {problem}")
        path.write_bytes(data)
    record_property("tried", dict(sorted(counts.items())))
    assert misses == []


def test_hostile_files_do_no_harm(tmp_path: Path, record_property: Record) -> None:
    """Do hostile files ever crash, hang, take memory, or raise other than the package's errors?

    Every attack of tests/attacks by every way in, then seconds of fuzzing of every parser;
    ``python -m tests.attacks.run --seconds 600`` fuzzes for ten minutes each.
    """
    words = [sys.executable, "-W", "ignore", "-m", "tests.attacks.run"]
    names = [*ATTACKS]
    jobs = []
    for number in range(2):
        with open(tmp_path / f"{number}.jsonl", "w") as out:
            jobs.append(subprocess.Popen([*words, *names[number::2]], cwd=ROOT, stdout=out))
    statuses = [job.wait() for job in jobs]
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    rows = [*map(json.loads, lines), *fuzz(SECONDS_OF_FUZZING)]
    attacks = [row for row in rows if "attack" in row]
    fuzzed = [row for row in rows if "fuzzed" in row]
    assert [row for row in rows if row["problem"]] == []
    assert statuses == [0, 0] and fuzzed
    num_ways = {name: 9 + bool(attack.png) for name, attack in ATTACKS.items()}
    assert Counter(row["attack"] for row in attacks) == num_ways
    figures = {}
    for name in ("seconds", "megabytes"):
        most = max(attacks, key=lambda row: float(row[name]))
        figures[name] = {key: most[key] for key in ("attack", "way", name)}
    small = [row["megabytes"] for row in attacks if "2^26 pixels" not in row["attack"]]
    record_property("attacks", len({row["attack"] for row in attacks}))
    record_property("attacks_by_ways", len(attacks))
    record_property("parsers_fuzzed", len(fuzzed))
    record_property("most", figures)
    record_property("most_megabytes_without_the_largest_images", max(small))
