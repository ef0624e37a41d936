"""Does CIFAR-10 come out of the shards, each image and label the same, in under a minute?

Packs the tree in each encoding; ``restore-cifar10 --check`` compares all 60,000 images with the
archive before it writes them, and this script what was written, with Pillow's pixels of the tree.
The archive is $CIFAR10_ARCHIVE (``cifar-10-python.tar.gz``); where there is none, one is made of
the tree. A given tree must hold all of CIFAR-10; without one, 60,000 images are drawn.
"""

import os
import pickle
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from claim import COMMAND, Claim, digests
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.cinic.cifar10 import CLASSES, FOLDER, read_cifar10
from cinic_shards.codec import ENCODINGS
from cinic_shards.format.provenance import CIFAR10_SIZES, parse_stem

Sets = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]


def draw_tree(root: Path) -> None:
    """Images with all of CIFAR-10's names: its test set in the split test, the rest anywhere."""
    from make_demo_tree import draw

    rng = np.random.default_rng(0)
    for name, size in CIFAR10_SIZES.items():
        for label, class_name in enumerate(CLASSES):
            numbers = range(label, size, len(CLASSES))
            for number, image in zip(numbers, draw(len(numbers), label, rng), strict=True):
                split = "test" if name == "test" else ("train", "valid")[number // 10 % 2]
                folder = root / split / class_name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"cifar10-{name}-{number}.png")


def read_tree(root: Path) -> Sets:
    """Images and labels by Pillow."""
    sets = {
        name: (np.zeros((size, 32, 32, 3), np.uint8), np.full(size, -1))
        for name, size in CIFAR10_SIZES.items()
    }
    for path in root.glob("*/*/cifar*.png"):
        provenance = parse_stem(path.stem)
        images, labels = sets[provenance.origin.removeprefix("cifar10-")]
        with Image.open(path) as image:
            images[provenance.number] = np.asarray(image.convert("RGB"))
        labels[provenance.number] = CLASSES.index(path.parent.name)
    return sets


def make_archive(sets: Sets, folder: Path) -> Path:
    """CIFAR-10 as Python's own pickle writes it."""
    files: dict[str, dict[bytes, object]] = {}
    for name, (images, labels) in sets.items():
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for start in range(0, len(images), 10_000):
            rows = slice(start, start + 10_000)
            file = "test_batch" if name == "test" else f"data_batch_{start // 10_000 + 1}"
            files[file] = {b"data": planes[rows].copy(), b"labels": labels[rows].tolist()}
    files["batches.meta"] = {b"label_names": [name.encode() for name in CLASSES]}
    (folder / FOLDER).mkdir()
    for file, content in files.items():
        (folder / FOLDER / file).write_bytes(pickle.dumps(content, protocol=2))
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(folder / FOLDER, FOLDER)
    return folder / "cifar-10-python.tar.gz"


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        tree: Path = claim.scratch / "drawn" if claim.args.tree is None else claim.tree
        if claim.args.tree is None:
            draw_tree(tree)
        expected = read_tree(tree)
        given = os.environ.get("CIFAR10_ARCHIVE")
        archive = Path(given) if given else make_archive(expected, claim.scratch)
        seconds, written, equal = {}, [], 0
        for encoding in ENCODINGS:
            shards = claim.pack(encoding, "--encoding", encoding, tree=tree)
            out = claim.scratch / f"restored-{encoding}"
            command = [COMMAND, "restore-cifar10", shards, out, "--check", archive]
            start = time.perf_counter()
            subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
            seconds[encoding] = round(time.perf_counter() - start, 1)
            written.append(digests(out / FOLDER))
            found = read_cifar10(out / FOLDER)
            for name, (images, labels) in expected.items():
                one = found.sets[name]
                is_same = (one.images == images).all(axis=(1, 2, 3)) & (one.labels == labels)
                equal += int(is_same.sum())
        slowest = max(seconds.values())
        same_files = written.count(written[0]) == len(written)
        claim.report(
            figure=f"{equal:,} of {60_000 * len(ENCODINGS):,} images and labels of three encodings "
            f"are the tree's, each the archive's, in at most {slowest} s",
            bar="all, in less than 60 s, and the same files from each encoding",
            holds=equal == 60_000 * len(ENCODINGS)
            and (slowest < 60 or claim.args.untimed)
            and same_files,
            seconds=seconds,
            same_files=same_files,
            archive="given" if given else "made of the tree",
            images=sum(1 for _ in tree.glob("*/*/*.png")),
        )


if __name__ == "__main__":
    main()
