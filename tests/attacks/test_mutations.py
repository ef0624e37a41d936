"""Random changes of manifests and indexes, with right digests: named by verify, never misread.

Each mutation changes one part of a manifest or of an index in any way that its type allows, and the
digests are computed again, so that only the content can reveal it. ``verify`` must name it, or
nothing can open the dataset; the loader must raise, or give exactly the right samples.

Some changes give a dataset that is as valid as before, and are not made:

- ``libraries``, ``licence``, ``citation`` and ``options.parent`` describe where a dataset is from;
  nothing in it proves them.
- the digests themselves, because they are made right again.
"""

import copy
import json
import math
import os
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from make_demo_tree import make_tree

from cinic_shards import ShardLoader
from cinic_shards.check.verify import verify
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import CinicShardsError
from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack
from tests.support.mutations import (
    changed,
    pack_pairs,
    part,
    parts,
    read_document,
    read_index,
    write_document,
    write_index,
    write_text,
)

NOT_PROVEN = [("libraries",), ("licence",), ("citation",), ("options", "parent"), ("digest",)]

Samples = list[tuple[bytes, int, int]]
"""Pixels, label and id of each sample, in order."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset of 30 samples in each encoding: shards of 6 and 4, blocks of 2."""
    root = tmp_path_factory.mktemp("mutations")
    make_tree(root / "tree", per_class=1, seed=5)
    for encoding in ENCODINGS:
        options = PackOptions(encoding=encoding, shard_size=6, block_size=2)
        pack(root / "tree", root / encoding, options, workers=1)
    return {encoding: root / encoding for encoding in ENCODINGS}


def samples_of(shards: Path) -> Samples:
    """All samples as the loader gives them, split by split."""
    found = []
    for split in Dataset(shards).manifest.splits:
        loader = ShardLoader(shards, split=split.name, batch_size=5, shuffle=False, workers=1)
        for batch in loader:
            pixels = batch.images.permute(0, 2, 3, 1).contiguous().numpy()
            rows = zip(pixels, batch.labels.tolist(), batch.indices.tolist(), strict=True)
            found += [(image.tobytes(), label, sample) for image, label, sample in rows]
    return found


# --- Mutations --------------------------------------------------------------------------------


def other_scalar(value: Any, chance: random.Random) -> Any:
    """Another scalar instead of one."""
    any_of: list[Any] = [None, True, False, "", 0, 1, -1, 2**31, 2**53, 2**63 - 1, 0.5, [], {}]
    if isinstance(value, int) and not isinstance(value, bool):
        any_of += [value + 1, value - 1, -value, value * 2, float(value), str(value), value + 0.5]
        any_of += [value + chance.randrange(-9, 9)] * 4
    elif isinstance(value, float):
        any_of += [value + 0.01, -value, value * (1 + 1e-9), math.nan, math.inf, int(value)] * 2
    elif isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        any_of += [value + "x", value[:-1], value.upper(), value[:at] + "/" + value[at:]] * 2
        any_of += [value[:at] + chance.choice("0a-_. ü") + value[at + 1 :]] * 4
    return chance.choice([one for one in any_of if not same(one, value)])


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def other_list(value: list[Any], chance: random.Random) -> Any:
    """A list with elements swapped, doubled, dropped or reversed."""
    out = copy.deepcopy(value)
    at = chance.randrange(len(out) or 1)
    to = chance.randrange(len(out) or 1)
    how = chance.choice(["swap", "double", "drop", "reverse", "clear", "copy", "other"])
    if how == "swap" and out:
        out[at], out[to] = out[to], out[at]
    elif how == "double" and out:
        out.insert(to, out[at])
    elif how == "drop" and out:
        del out[at]
    elif how == "reverse":
        out.reverse()
    elif how == "clear":
        out.clear()
    elif how == "copy" and out:
        out[to] = copy.deepcopy(out[at])
    else:
        out.append(other_scalar(0, chance))
    return out


def other_dict(value: dict[str, Any], chance: random.Random) -> Any:
    """A dict with names removed, added, renamed, or two values swapped."""
    out = copy.deepcopy(value)
    names = list(out)
    how = chance.choice(["remove", "add", "rename", "swap"])
    if how == "add" or not names:
        out[chance.choice(["extra", "Num_samples", ""])] = other_scalar(0, chance)
        return out
    one, other = chance.choice(names), chance.choice(names)
    if how == "swap":
        out[one], out[other] = out[other], out[one]
    else:
        removed = out.pop(one)
        if how == "rename":
            out[one + "x"] = removed
    return out


def other_bytes(value: bytes, chance: random.Random) -> Any:
    """A column with values changed, swapped or copied, or of a different length."""
    out = bytearray(value)
    size = chance.choice([1, 4, 8, 16])
    at, to = (size * chance.randrange(max(1, len(out) // size)) for _ in range(2))
    how = chance.choice(["flip", "flip", "swap", "swap", "copy", "zero", "ones", "cut", "more"])
    if how == "flip" and out:
        out[at] ^= 1 << chance.randrange(8)
    elif how == "swap":
        out[at : at + size], out[to : to + size] = out[to : to + size], out[at : at + size]
    elif how == "copy":
        out[to : to + size] = out[at : at + size]
    elif how in ("zero", "ones"):
        out[at : at + size] = bytes(size) if how == "zero" else b"\xff" * size
    elif how == "cut":
        del out[-size:]
    else:
        out += bytes(size)
    return bytes(out[: len(value)]) if how in ("swap", "copy", "zero", "ones") else bytes(out)


def other_part(content: Any, chance: random.Random) -> tuple[tuple[Any, ...], Any]:
    """The path of a part, and a different value for it."""
    all_parts = [
        (path, value)
        for path, value in parts(content)
        if path and not any(path[: len(one)] == one for one in NOT_PROVEN)
    ]
    while True:
        # A long list of keys or sums must not hide the other fields.
        depth = chance.choice(sorted({len(path) for path, _ in all_parts}))
        path, value = chance.choice([one for one in all_parts if len(one[0]) == depth])
        make: Callable[[Any, random.Random], Any] = other_scalar
        if isinstance(value, list):
            make = other_list
        elif isinstance(value, dict):
            make = other_dict
        elif isinstance(value, bytes):
            make = other_bytes
        new = make(value, chance)
        is_kept = all(has(content, new, path, one) for one in NOT_PROVEN)
        if not same(new, value) and is_kept:
            return path, new


def has(content: Any, new: Any, path: tuple[Any, ...], unproven: tuple[str, ...]) -> bool:
    """True if a part that nothing proves is the same after a change."""
    try:
        before = part(content, unproven)
    except (KeyError, TypeError, IndexError):
        before = None
    try:
        after = part(changed(content, path, new), unproven)
    except (KeyError, TypeError, IndexError):
        after = None
    return same(before, after)


def double_name(content: Any, chance: random.Random) -> str:
    """The JSON of a manifest in which an object has a name twice, first or last with its value."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    lines = text.split("\n")
    scalar = [i for i, line in enumerate(lines) if '": ' in line and line[-1] not in "[{"]
    scalar = [i for i in scalar if "digest" not in lines[i]]
    at = chance.choice(scalar)
    name = lines[at].partition('": ')[0]
    lines.insert(
        at + chance.choice([0, 1]), name + '": ' + json.dumps(other_scalar(0, chance)) + ","
    )
    if not lines[at + 1].rstrip().endswith(","):
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    if not lines[at].rstrip().endswith(","):
        lines[at] += ","
    return "\n".join(lines)


def mutate(shards: Path, chance: random.Random) -> str:
    """Change one part of a dataset; return a description."""
    content = read_document(shards)
    entries = [entry for split in content["splits"] for entry in split["shards"]]
    what = chance.choice(["manifest", "manifest", "manifest", "index", "index", "twice"])
    if what == "manifest":
        path, new = other_part(content, chance)
        write_document(shards, changed(content, path, new))
    elif what == "twice" and chance.random() < 0.6:
        write_text(shards, double_name(content, chance))
        path, new = ("manifest",), "a name twice"
    else:
        name = chance.choice(entries)["name"]
        index = msgpack.unpackb(read_index(shards, name))
        if what == "twice":
            field = chance.choice(list(index))
            pairs = list(index.items())
            pairs.insert(chance.randrange(len(pairs)), (field, other_scalar(0, chance)))
            data, path, new = pack_pairs(pairs), (name, field), "twice"
        else:
            path, new = other_part(index, chance)
            data = msgpack.packb(changed(index, path, new), use_bin_type=True)
            path = (name, *path)
        write_index(shards, name, data)
    return f"{what} {path}: {new!r:.200}"


def outcome(shards: Path, right: Samples) -> tuple[str, str]:
    """Say how a mutation was found, and what is wrong if it was not."""
    try:
        found = samples_of(shards)
    except CinicShardsError as error:
        loader = f"raised {type(error).__name__}"
    else:
        loader = "right" if found == right else "misread"
        if set(found) < set(right):
            loader = "right, of fewer splits"
    faults = verify(shards, workers=1).faults
    quick = verify(shards, workers=1, quick=True).faults
    if loader == "misread":
        return loader, f"{len(found)} samples, {len(faults)} faults"
    if not faults:
        return "not named", loader
    return f"loader: {loader}; named by verify{' and quick' if quick else ''}", ""


def run(datasets: dict[str, Path], folder: Path, count: int, seed: int) -> Counter[str]:
    """Try mutations; return how many were found in each way."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    right = {encoding: samples_of(path) for encoding, path in datasets.items()}
    misses = []
    shards = folder / "shards"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            encoding = chance.choice(list(datasets))
            shutil.rmtree(shards, ignore_errors=True)
            shutil.copytree(datasets[encoding], shards)
            what = mutate(shards, chance)
            how, problem = outcome(shards, right[encoding])
            counts[how] += 1
            if problem:
                misses.append(f"{number} {encoding} {what}: {how}, {problem}")
    assert not misses, "\n".join(misses)
    return counts


def test_mutations_are_named_and_not_misread(datasets: dict[str, Path], tmp_path: Path) -> None:
    assert sum(run(datasets, tmp_path, 60, seed=0).values()) == 60


@pytest.mark.real
def test_many_mutations_are_named_and_not_misread(
    datasets: dict[str, Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Is each of 500 random changes of manifests and indexes named, and none misread?"""
    counts = run(datasets, tmp_path, 500, seed=int(os.environ.get("CINIC_SEED", "1")))
    record_property("mutations", dict(sorted(counts.items())))
    print(dict(sorted(counts.items())))
    assert sum(counts.values()) == 500
