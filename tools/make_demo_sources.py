"""Draw small versions of CINIC-10's sources: CIFAR-10's archive and ImageNet's synset tars.

    python tools/make_demo_sources.py OUT [--photos 240] [--batch-size 10000] [--seed 0]

``OUT/cifar-10-python.tar.gz`` has six batches with equally many images of the ten classes.
``OUT/synsets`` has two tars a class, with JPEGs of many sizes, some of them grey. The images are
drawn as by make_demo_tree.py; none is a photograph. The same arguments and versions of numpy,
Pillow and zlib give the same files.
"""

import argparse
import io
import os
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from make_demo_tree import draw
from numpy.typing import NDArray
from PIL import Image

SYNSETS = {
    "airplane": ("n02691156", "n02690373"),
    "automobile": ("n02958343", "n02814533"),
    "bird": ("n01503061", "n01531178"),
    "cat": ("n02121808", "n02123045"),
    "deer": ("n02430045", "n02431122"),
    "dog": ("n02084071", "n02106854"),
    "frog": ("n01639765", "n01641577"),
    "horse": ("n02374451", "n02381460"),
    "ship": ("n02792552", "n02858304"),
    "truck": ("n04490091", "n03345487"),
}
"""WordNet ids of each class, all on the list of CINIC-10's authors."""

BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def make_sources(
    out: str | os.PathLike[str], *, photos: int, batch_size: int = 10_000, seed: int = 0
) -> None:
    """Draw the sources.

    Args:
        out: a folder; it may exist, but without a folder ``synsets``.
        photos: JPEGs of each class, half of them in each tar.
        batch_size: images in each of CIFAR-10's batches, a multiple of ten.
        seed: seed of the pixels.
    """
    out = Path(out)
    (out / "synsets").mkdir(parents=True)
    batches = {name: _batch(number, batch_size, seed) for number, name in enumerate(BATCHES)}
    write_cifar10(out / "cifar-10-python.tar.gz", batches)
    for label, synsets in enumerate(SYNSETS.values()):
        rng = np.random.default_rng([seed, 10, label])
        images = draw(photos, label, rng)
        for synset, part in zip(synsets, np.array_split(images, len(synsets)), strict=True):
            files = [(number, _jpeg(image, rng)) for number, image in enumerate(part, 1)]
            write_tar(out / "synsets" / f"{synset}.tar", _named(synset, files))


def _batch(number: int, size: int, seed: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Images, uint8 (N, 32, 32, 3), and their labels."""
    rng = np.random.default_rng([seed, number])
    labels = np.repeat(np.arange(10), size // 10)
    images = np.concatenate([draw(size // 10, label, rng) for label in range(10)])
    order = rng.permutation(len(labels))
    return images[order], labels[order].tolist()


def write_cifar10(path: Path, batches: dict[str, tuple[NDArray[np.uint8], list[int]]]) -> None:
    """Write batches in the format of CIFAR-10's authors."""
    contents: dict[str, object] = {
        name: {
            b"data": np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1),
            b"labels": labels,
        }
        for name, (images, labels) in batches.items()
    }
    contents["batches.meta"] = {b"label_names": [name.encode() for name in SYNSETS]}
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            _add(archive, f"cifar-10-batches-py/{name}", pickle.dumps(content, protocol=2))


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files, pairs of a name and bytes, to a tar."""
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            _add(archive, name, data)


def _named(synset: str, files: Iterable[tuple[int, bytes]]) -> Iterable[tuple[str, bytes]]:
    return ((f"{synset}_{number}.JPEG", data) for number, data in files)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _jpeg(image: NDArray[np.uint8], rng: np.random.Generator) -> bytes:
    """Return a JPEG of random size; one in eight is grey."""
    width, height = rng.integers(33, 80, 2).tolist()
    photo = Image.fromarray(image).resize((width, height))
    if rng.integers(8) == 0:
        photo = photo.convert("L")
    return encode(photo)


def encode(photo: Image.Image, kind: str = "JPEG") -> bytes:
    """Return the bytes of a photo as a file."""
    file = io.BytesIO()
    photo.save(file, kind)
    return file.getvalue()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the sources; new")
    parser.add_argument("--photos", type=int, default=240, help="JPEGs of each class")
    parser.add_argument(
        "--batch-size", type=int, default=10_000, help="images in each of CIFAR-10's six batches"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the pixels")
    args = parser.parse_args()
    make_sources(args.out, photos=args.photos, batch_size=args.batch_size, seed=args.seed)
    print(f"{6 * args.batch_size:,} images and {10 * args.photos:,} photos: {args.out}")


if __name__ == "__main__":
    main()
