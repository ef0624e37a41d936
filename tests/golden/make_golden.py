"""Make the datasets and states of this folder with release 0.1.0.

Run it in a checkout of that release (commit cdfec49), whose modules and options it uses:

    PYTHONPATH=. python .../tests/golden/make_golden.py OUT

``OUT`` gets a folder for each encoding, and ``states.json``. The folder ``0.1.0`` was made once and
must not change: later versions must read it. For a new release, make a folder beside it.

The tree is drawn by tools/make_demo_tree.py and thinned out to six classes. In ``train`` each has
one image of CIFAR-10 and one of ImageNet, in ``test`` one of either origin in turn. One image of
``train`` is also in ``test``.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, "tools")  # the tools of the current checkout

from make_demo_tree import make_tree

from cinic_shards import Augment, Batch, ShardLoader, __version__
from cinic_shards.pack import PackOptions, pack

PACKING: dict[str, dict[str, Any]] = {
    "png": {"shard_size": 5, "block_size": 2, "sidecars": ("cls", "json")},
    "zstd": {"shard_size": 5, "block_size": 2},
    "raw": {"shard_size": 5, "block_size": 2},
}
"""Encoding -> options of packing."""

CLASSES = ("airplane", "bird", "cat", "dog", "ship", "truck")

SETTINGS: dict[str, dict[str, Any]] = {
    "window": {"split": "train", "batch_size": 3, "seed": 7},
    "full": {"split": "train", "batch_size": 3, "order": "full"},
    "as stored": {"split": "test", "batch_size": 4, "shuffle": False},
    "padded": {"split": "train+test", "batch_size": 4, "tail": "pad"},
    "global": {"split": "train+test", "global_batch_size": 7, "tail": "short"},
    "classes": {
        "split": "train",
        "batch_size": 2,
        "subset": {"classes": ["cat", "dog", "ship"]},
    },
    "origin": {"split": "train+test", "batch_size": 2, "subset": {"origin": "cifar"}},
    "fraction": {
        "split": "train",
        "batch_size": 2,
        "subset": {"fraction": 0.5, "fraction_seed": 4},
    },
    "no duplicates": {
        "split": "test",
        "batch_size": 2,
        "subset": {"exclude_duplicates_of": "train"},
    },
    "augmented": {"split": "train", "batch_size": 3, "augment": {"cutout": 8}},
    "augmented, uint8": {
        "split": "train",
        "batch_size": 3,
        "seed": 1,
        "augment": {"crop_padding": 2, "flip": False, "dtype": "uint8"},
    },
}
"""Name -> options of a loader, with those of the subset and of ``Augment`` in dicts."""

EPOCH = 2


def make_small_tree(root: Path) -> None:
    """Draw the tree, and remove what would only repeat a case."""
    make_tree(root, per_class=5, seed=0)
    for folder in root.glob("*/*"):
        if folder.parent.name == "valid" or folder.name not in CLASSES:
            shutil.rmtree(folder)
    (root / "valid").rmdir()
    for number, folder in enumerate(sorted(root.glob("*/*"))):
        names = sorted(path.name for path in folder.iterdir())  # CIFAR-10's first
        kept = [names[0], names[-1]] if folder.parent.name == "train" else [names[-(number % 2)]]
        for name in set(names) - set(kept):
            (folder / name).unlink()
    first = min((root / "train" / "ship").iterdir())
    shutil.copy(first, root / "test" / "ship")


def loader_of(shards: Path, setting: dict[str, Any], rank: int, world_size: int) -> ShardLoader:
    """Return a loader for a setting, with 0.1.0's options."""
    options = dict(setting)
    options |= options.pop("subset", {})
    if "augment" in options:
        options["augment"] = Augment(**options["augment"])
    return ShardLoader(shards, **options, workers=1, rank=rank, world_size=world_size)


def digest(batches: list[Batch]) -> str:
    """Return the SHA-256 of the images' values, in the order (N, H, W, C)."""
    sha256 = hashlib.sha256()
    for batch in batches:
        sha256.update(batch.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
    return sha256.hexdigest()


def saved(shards: Path, setting: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an epoch of one rank, then of each of two ranks, with a state from its middle."""
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        if world_size == 2 and setting.get("global_batch_size") is None:
            continue
        loader = loader_of(shards, setting, rank, world_size)
        loader.set_epoch(EPOCH)
        step, batches, state = len(loader) // 2, [], {}
        for batch in loader:
            batches.append(batch)
            if len(batches) == step:
                state = loader.state_dict()
        yield {
            "rank": rank,
            "world_size": world_size,
            "state": state,
            "ids": [batch.indices.tolist() for batch in batches],
            "valid": [int(batch.valid.sum()) for batch in batches],
            "labels": [batch.labels.tolist() for batch in batches],
            "images_sha256": digest(batches[step:]),
        }


def main() -> None:
    """Make everything."""
    assert __version__ == "0.1.0"
    out = Path(sys.argv[1])
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        make_small_tree(tree)
        for encoding, options in PACKING.items():
            shards = out / encoding
            pack(tree, shards, PackOptions(encoding=encoding, **options), workers=1)
            for name, setting in SETTINGS.items():
                if (encoding, name) == ("zstd", "full"):
                    continue  # an error: nearly every sample would decode a block
                about = {"encoding": encoding, "name": name, "setting": setting}
                runs += [about | run for run in saved(shards, setting)]
    lines = ",\n".join(map(json.dumps, runs))
    packing = json.dumps(PACKING)
    (out / "states.json").write_text(f'{{"packing": {packing}, "runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
