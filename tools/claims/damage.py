"""Is every damaged byte found and named, and is no wrong pixel ever delivered?

300 single-byte flips and 50 truncations at random places of shards, indexes and manifest of a
drawn dataset. Each time ``verify`` must name the right file and, inside a payload, the right
sample, and a fresh loader must raise; or, told to skip, count what it leaves out and deliver the
rest as it was. (Where the damage is in a sidecar or a tar header, no pixel is wrong, and the loader
may deliver all.)
"""

import random
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from claim import Claim
from make_demo_tree import make_tree

from cinic_shards.check.verify import verify
from cinic_shards.errors import CinicShardsError
from cinic_shards.format import MANIFEST_NAME
from cinic_shards.loader.batches import OnError
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.read.dataset import Dataset

NUM_FLIPS = 300
NUM_TRUNCATIONS = 50


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


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        tree = claim.scratch / "small"
        make_tree(tree, per_class=10, seed=1)
        shards = claim.pack("shards", "--shard-size", "64", tree=tree)
        dataset = Dataset(shards)
        splits = [split.name for split in dataset.manifest.splits]
        right = {split: pixels_by_id(shards, split, "raise")[0] for split in splits}
        places = {
            info.name: (split, info) for split in dataset.manifest.splits for info in split.shards
        }
        begins = {}  # shard -> (payload offsets, ends)
        for split in splits:
            reader = dataset.split(split)
            for info, index in zip(reader.shards, reader._indexes, strict=True):
                begins[info.name] = index.offset, index.offset + index.length
        chance = random.Random(0)
        counts: Counter[str] = Counter()
        misses = []
        for number in range(NUM_FLIPS + NUM_TRUNCATIONS):
            # Half of them anywhere in a shard, a quarter in an index, a quarter in the manifest.
            kind = chance.choice(["shard", "shard", "index", "manifest"])
            name = MANIFEST_NAME if kind == "manifest" else chance.choice(sorted(places))
            path = shards / name
            data = path.read_bytes()
            if kind == "index":
                info = places[name][1]
                at = info.index_offset + chance.randrange(info.index_length)
            else:
                at = chance.randrange(len(data))
            if number < NUM_FLIPS:
                damaged = bytearray(data)
                damaged[at] ^= chance.randrange(1, 256)
                path.write_bytes(damaged)
            else:
                path.write_bytes(data[:at])
            what = f"{'flip' if number < NUM_FLIPS else 'cut'} in {kind}"
            faults = verify(shards, workers=1).faults
            is_named = bool(faults) and {fault.location.file for fault in faults} == {name}
            if number < NUM_FLIPS and kind == "shard":
                starts, ends = begins[name]
                sample = int(np.searchsorted(starts, at, side="right")) - 1
                if sample >= 0 and at < ends[sample]:
                    what = "flip in payload"
                    is_named &= {fault.location.sample for fault in faults} == {None, sample}
            split = splits[0] if name == MANIFEST_NAME else places[name][0].name
            counts[what] += 1
            if not is_named:
                misses.append(f"verify: {what}, {name} at {at}: {faults[:2]}")
            if problem := _deliver(shards, split, right[split], what):
                misses.append(f"loader: {what}, {name} at {at}: {problem}")
            path.write_bytes(data)
        claim.report(
            figure=f"{len(misses)} misses in {NUM_FLIPS} flips and {NUM_TRUNCATIONS} truncations",
            bar="0 misses",
            holds=not misses,
            tried=dict(sorted(counts.items())),
            misses=misses[:10],
        )
        shutil.rmtree(shards)


def _deliver(shards: Path, split: str, right: dict[int, bytes], what: str) -> str:
    """What a fresh loader does wrong, or an empty string."""
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
        return "" if what != "flip in payload" else "told to skip, it raised"
    if any(right[sample_id] != pixels for sample_id, pixels in found.items()):
        return "told to skip, it delivered wrong pixels"
    if len(found) + num_skipped != len(right):
        return f"{len(found)} delivered, {num_skipped} skipped, of {len(right)}"
    return "told to skip, it skipped nothing" if raised and not num_skipped else ""


if __name__ == "__main__":
    main()
