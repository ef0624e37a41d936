"""Does ``build`` follow CINIC-10's published construction to the image, and give the same bytes?

CIFAR-10 whole, from CINIC_SOURCES=./sources (``cifar-10-python.tar.gz``, and ``synsets/*.tar``), or
drawn: each image in its class, once, its pixels unchanged, and the splits as published; beside all
the photos that there are. Then photos enough for every class, among them grey ones, CMYK, PNGs,
truncated ones and an empty tar: each rule counted. Each built twice, with other workers, and as
shards: the same bytes, and those that ``pack`` gives of the tree.
"""

import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from claim import COMMAND, Claim
from make_demo_sources import SYNSETS, encode, make_sources, write_tar
from numpy.typing import NDArray
from PIL import Image

PER_CLASS = 27
"""Of the second part: 6 images of CIFAR-10 and 21 photos in each class and split."""
SPARE = 8
"""Photos of each class beyond those that are needed: as many cannot be decoded."""


def build(sources: Path, out: Path, *options: object) -> dict[str, Any]:
    """Build by the command line; what it says."""
    command = [COMMAND, "build", out, "--cifar", sources / "cifar-10-python.tar.gz"]
    command += ["--imagenet", sources / "synsets", "--json", "--quiet", *options]
    result = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def read_cifar10(path: Path) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    """CIFAR-10 as its page says to read it: our own archive, or one that its user trusts."""
    batches = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            name = member.name.rpartition("/")[2]
            if file is not None and "batch" in name and name != "batches.meta":
                batches[name] = pickle.loads(file.read(), encoding="bytes")
    sets = {}
    for name, parts in (
        ("train", [f"data_batch_{n}" for n in range(1, 6)]),
        ("test", ["test_batch"]),
    ):
        data = np.concatenate([batches[part][b"data"] for part in parts])
        labels = [label for part in parts for label in batches[part][b"labels"]]
        sets[name] = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
    return sets


def photos_of(synsets: Path) -> dict[str, bytes]:
    """Content of every photo in the tars, by its name without ``.JPEG``."""
    found = {}
    for path in synsets.glob("*.tar"):
        if path.stat().st_size:
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    assert file is not None
                    found[member.name.partition(".")[0]] = file.read()
    return found


def faults(sources: Path, tree: Path) -> list[str]:
    """What in a tree is not what its name says, and what is there twice in a class."""
    sets = read_cifar10(sources / "cifar-10-python.tar.gz")
    photos = photos_of(sources / "synsets")
    classes = sorted(SYNSETS)
    found = []
    seen: Counter[str] = Counter()
    for path in tree.glob("*/*/*"):
        seen[f"{path.parent.name}/{path.name}"] += 1
        with Image.open(path) as image:
            pixels = np.asarray(image)
        if path.name.startswith("cifar10-"):
            _, name, index = path.stem.split("-")
            images, labels = sets[name]
            is_right = classes[labels[int(index)]] == path.parent.name
            is_right &= np.array_equal(pixels, images[int(index)])
        else:
            with Image.open(io.BytesIO(photos[path.stem])) as photo:
                small = photo.convert("RGB").resize((32, 32), Image.Resampling.BOX)
            is_right = np.array_equal(pixels, np.asarray(small))
        if not is_right:
            found.append(f"{path.relative_to(tree)}: other pixels or another class")
    return found + [f"{name}: {count} times" for name, count in seen.items() if count > 1]


def counts(tree: Path) -> dict[str, set[int]]:
    """Split and origin -> how many images the classes have, all different numbers."""
    found: dict[str, set[int]] = {}
    for folder in tree.glob("*/*"):
        kinds = Counter(
            "photos" if name.startswith("n") else name.rpartition("-")[0]
            for name in os.listdir(folder)
        )
        for kind in ("cifar10-train", "cifar10-test", "photos"):
            found.setdefault(f"{folder.parent.name}: {kind}", set()).add(kinds[kind])
    return found


def is_same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same."""
    return subprocess.run(["diff", "-rq", str(one), str(other)]).returncode == 0


def is_dealt(found: dict[str, set[int]], cifar: int) -> bool:
    """Whether CIFAR-10 is in the splits as published, ``cifar`` images a class and split."""
    expected = {
        "train: cifar10-train": cifar, "train: cifar10-test": 0,
        "valid: cifar10-train": cifar, "valid: cifar10-test": 0,
        "test: cifar10-train": cifar - cifar // 2, "test: cifar10-test": cifar // 2,
    }  # fmt: skip
    return all(found[name] == {count} for name, count in expected.items())


def add_odd_photos(synsets: Path) -> None:
    """As many of each class as cannot be decoded, and CMYK and PNG in the place of others."""
    for names in SYNSETS.values():
        path = synsets / f"{names[0]}.tar"
        with tarfile.open(path) as archive:
            files = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
        for row in range(SPARE):
            files[row] = files[row][0], files[row][1][: len(files[row][1]) // 2]
        for row, (mode, kind) in enumerate((("CMYK", "JPEG"), ("RGB", "PNG")), SPARE):
            with Image.open(io.BytesIO(files[row][1])) as photo:
                files[row] = files[row][0], encode(photo.convert(mode), kind)
        write_tar(path, files)
    (synsets / "n02123159.tar").touch()


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        given = os.environ.get("CINIC_SOURCES")
        drawn = claim.scratch / "drawn"
        # Where CIFAR-10 is given, the drawn one makes room for it.
        size = 10 if given else 10_000
        make_sources(drawn, photos=3 * (PER_CLASS - 6) + SPARE, batch_size=size)
        sources = Path(given).resolve() if given else drawn
        add_odd_photos(drawn / "synsets")
        if given:
            shutil.copy(sources / "cifar-10-python.tar.gz", drawn)

        whole = build(sources, claim.scratch / "whole", "--tree", "--allow-missing")
        build(sources, claim.scratch / "again", "--tree", "--allow-missing", "--workers", 1)
        build(sources, claim.scratch / "shards", "--allow-missing", "--encoding", "raw")
        claim.pack("packed", "--encoding", "raw", tree=claim.scratch / "whole")
        small = build(drawn, claim.scratch / "small", "--tree", "--per-class", PER_CLASS)
        build(drawn, claim.scratch / "small2", "--tree", "--per-class", PER_CLASS, "--workers", 1)

        in_whole, in_small = counts(claim.scratch / "whole"), counts(claim.scratch / "small")
        checks = {
            "all of CIFAR-10 dealt as published": is_dealt(in_whole, 2_000),
            "every image of it what its name says, once": faults(sources, claim.scratch / "whole")
            == [],
            "a small one dealt as published": is_dealt(in_small, 6)
            and all(in_small[f"{split}: photos"] == {21} for split in ("train", "valid", "test")),
            "every image of that what its name says, once": faults(drawn, claim.scratch / "small")
            == [],
            "photos that cannot be decoded named": len(small["failed_photos"])
            == SPARE * len(SYNSETS),
            "photos that are no JPEG named": len(small["other_formats"]) > 0,
            "the empty tar named": small["empty_tars"] == ["n02123159.tar"],
            "the tars that are not there named": len(small["missing_tars"]) == 1359 - 21,
            "twice the same bytes": is_same(claim.scratch / "whole", claim.scratch / "again")
            and is_same(claim.scratch / "small", claim.scratch / "small2"),
            "shards as of the packed tree": is_same(
                claim.scratch / "shards", claim.scratch / "packed"
            ),
            "nothing left beside them": not list(claim.scratch.glob("*.building")),
        }
        claim.report(
            figure=f"{sum(checks.values())} of {len(checks)} rules",
            bar="all",
            holds=all(checks.values()),
            sources="given" if given else "drawn",
            images=[whole["num_images"], small["num_images"]],
            failed_photos=len(small["failed_photos"]),
            missed=[name for name, holds in checks.items() if not holds],
        )


if __name__ == "__main__":
    main()
