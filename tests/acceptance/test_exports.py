"""Exported files hold every image, as the libraries that they are for read them."""

import hashlib
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cinic_shards import Dataset, partition
from tests.acceptance.trees import Record, Tree
from tests.exports.test_export import READERS

MEASURE = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
print(json.dumps({"seconds": round(time.perf_counter() - start, 1), "peak_mb": round(peak)}))
"""


def images_of(
    names: Iterable[str], classes: Iterable[str], images: NDArray[np.uint8]
) -> Counter[tuple[str, str, str]]:
    """Count images by file name, class and the hash of their pixels."""
    return Counter(
        (name.rpartition("/")[2], label, hashlib.blake2b(image.tobytes()).hexdigest())
        for name, label, image in zip(names, classes, images, strict=True)
    )


@pytest.mark.parametrize("format_", READERS)
def test_other_libraries_read_every_image(
    tree: Tree, format_: Any, tmp_path: Path, record_property: Record
) -> None:
    """Do numpy, torch, torchvision and datasets read every exported image, class and name?"""
    command = [sys.executable, "-m", "cinic_shards", "export", tree.packed("raw"), tmp_path / "out"]
    words = [*map(str, command), "--format", format_, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    row_of = {key: row for row, key in enumerate(tree.keys)}
    count = 0
    for split in sorted({key.partition("/")[0] for key in tree.keys}):
        found, classes, names = READERS[format_](tmp_path / "out", split)
        keys = [key for key in tree.keys if key.startswith(f"{split}/")]
        rows = [row_of[key] for key in keys]
        expected = images_of(
            (f"{key}.png" for key in keys), (key.split("/")[1] for key in keys), tree.pixels[rows]
        )
        assert images_of(names, classes, found) == expected
        count += len(found)
    assert count == len(tree.keys)
    for name, value in {"images": count, **json.loads(done.stdout)}.items():
        record_property(name, value)


def test_a_thousand_clients(tree: Tree, record_property: Record) -> None:
    """Has each image one client of up to 1,000, in every scheme, and how long does that take?"""
    shards = tree.packed("raw")
    columns = Dataset(shards).columns_of("train")
    parts = min(1000, len(columns) // 10)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for scheme, options in {
        "iid": {}, "dirichlet": {"alpha": 0.05, "min_size": 5}, "classes": {},
        "quantity": {"exponent": 1.2},
    }.items():  # fmt: skip
        found = partition(shards, scheme, parts=parts, **options)
        everything = np.sort(np.concatenate([*found.parts.values()]))
        assert np.array_equal(everything, columns.ids)
        assert min(found.sizes.values()) >= options.get("min_size", 1)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    record_property("parts", parts)
    record_property("cpu_seconds_of_four", round(spent.ru_utime - before.ru_utime, 1))
