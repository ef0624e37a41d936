"""Draw a tree of PNGs like CINIC-10's.

    python tools/make_demo_tree.py OUT [--per-class 100] [--seed 0]

It is ``OUT/{train,valid,test}/<class>/*.png``: ten classes with the same number of images, named
as in CINIC-10. The images are not photographs but smooth noise whose power falls with frequency as
in photographs, with a shape whose outline and colour depend on the class. So a classifier can learn
them, and their files are about as large as CINIC-10's (2.3 kB). The same arguments and versions of
numpy, Pillow and zlib give the same tree.
"""

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SPLITS = ("train", "valid", "test")
SIZE = 32
MAX_PER_CLASS = 9000
"""CINIC-10's own number: CIFAR-10 has no images for two ninths of more."""

CLASS_SYNSETS = {
    "airplane": ("n02691156", "n02690373", "n04552348"),
    "automobile": ("n02958343", "n02814533", "n04285008"),
    "bird": ("n01503061", "n01531178", "n01558993"),
    "cat": ("n02121808", "n02123045", "n02123159"),
    "deer": ("n02430045", "n02431122", "n02432291"),
    "dog": ("n02084071", "n02099601", "n02106662"),
    "frog": ("n01639765", "n01641577", "n01644373"),
    "horse": ("n02374451", "n02381119", "n02389026"),
    "ship": ("n04194289", "n03095699", "n03673027"),
    "truck": ("n04490091", "n03345487", "n03417042"),
}
"""CINIC-10's classes, and WordNet ids of some of their images."""

_CHUNK_IMAGES = 1000  # drawn at a time, to limit memory
_OTHER_SPELLING_EVERY = 10


def make_tree(out: str | os.PathLike[str], *, per_class: int, seed: int) -> None:
    """Draw a tree.

    Two ninths of the images have names of CIFAR-10, a tenth of those with the spelling
    ``cifar-10-``. Names of its test set occur only in the split ``test``, with as many of its train
    set. Names are unique.

    Args:
        out: a folder that is empty or does not exist.
        per_class: images in each class of each split, 1 to 9,000.
        seed: seed of names and pixels.

    Raises:
        FileExistsError: ``out`` holds something.
        ValueError: ``per_class`` is out of range.
    """
    if not 1 <= per_class <= MAX_PER_CLASS:
        raise ValueError(f"{per_class} images a class: expected 1 to {MAX_PER_CLASS:,}")
    root = Path(out)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise FileExistsError(f"{root}: not empty")
    names = _names(per_class, seed)
    for split_code, split in enumerate(SPLITS):
        for class_code, class_name in enumerate(CLASS_SYNSETS):
            folder = root / split / class_name
            folder.mkdir(parents=True)
            rng = np.random.default_rng([seed, split_code, class_code])
            for start in range(0, per_class, _CHUNK_IMAGES):
                images = draw(min(_CHUNK_IMAGES, per_class - start), class_code, rng)
                for image in images:
                    (folder / next(names)).write_bytes(_encode(image))


def _names(per_class: int, seed: int) -> Iterator[str]:
    """Yield file names in the order of splits, classes and images."""
    rng = np.random.default_rng(seed)
    indices = {
        name: iter(rng.permutation(count).tolist())
        for name, count in (("train", 50_000), ("test", 10_000))
    }
    numbers = iter(rng.permutation(len(SPLITS) * len(CLASS_SYNSETS) * per_class).tolist())
    num_cifar10 = round(per_class * 2 / 9)
    num_named = 0
    for split in SPLITS:
        for synsets in CLASS_SYNSETS.values():
            for i in range(per_class):
                if i < num_cifar10:
                    set_name = "test" if split == "test" and 2 * i < num_cifar10 else "train"
                    num_named += 1
                    dash = "-" if num_named % _OTHER_SPELLING_EVERY == 0 else ""
                    yield f"cifar{dash}10-{set_name}-{next(indices[set_name])}.png"
                else:
                    yield f"{synsets[i % len(synsets)]}_{next(numbers)}.png"


def draw(num_images: int, class_code: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return images of one class: uint8, shape (num_images, 32, 32, 3)."""
    light = _pink_noise(num_images, 1, rng) * rng.uniform(0.1, 0.25, (num_images, 1, 1, 1))
    tint = _pink_noise(num_images, 3, rng) * rng.uniform(0.02, 0.05, (num_images, 1, 1, 1))
    base = rng.uniform(0.3, 0.65, (num_images, 1, 1, 1))
    colour = _class_colour(class_code) + rng.normal(0, 0.05, (num_images, 1, 1, 3))
    inside = _shapes(num_images, class_code, rng)
    pixels = base + light + tint + inside * colour
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def _pink_noise(num_images: int, channels: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise with mean 0 and deviation 1, rough like a lawn to smooth like a sky."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE))
    frequency[0, 0] = np.inf
    fall = rng.uniform(1.2, 2.4, (num_images, 1, 1, 1))
    white = np.fft.rfft2(rng.normal(size=(num_images, channels, SIZE, SIZE)))
    noise = np.fft.irfft2(white / frequency**fall, s=(SIZE, SIZE))
    noise /= noise.std(axis=(2, 3), keepdims=True)
    return noise.transpose(0, 2, 3, 1)


def _class_colour(class_code: int) -> NDArray[np.float64]:
    """Return the colour of a class's shape, added to red, green and blue: one of ten hues."""
    angle = 2 * np.pi * (class_code / len(CLASS_SYNSETS) + np.arange(3) / 3)
    return 0.25 * np.cos(angle)


def _shapes(num_images: int, class_code: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return 1 inside a superellipse, 0 outside, with a soft edge: (num_images, 32, 32, 1).

    The class selects stars, diamonds, ellipses, and rectangles, slender or round.
    """
    power = (0.6, 1.0, 2.0, 4.0, 8.0)[class_code % 5]
    aspect = (0.45, 0.9)[class_code // 5]
    angle = rng.normal(0, 0.3, (num_images, 1, 1))
    centre = rng.normal(0, 0.15, (2, num_images, 1, 1))
    radius = rng.uniform(0.5, 0.9, (num_images, 1, 1))
    axis = np.linspace(-1, 1, SIZE)
    x, y = axis - centre[0], axis[:, None] - centre[1]
    along = np.abs(x * np.cos(angle) + y * np.sin(angle)) / radius
    across = np.abs(y * np.cos(angle) - x * np.sin(angle)) / (radius * aspect)
    distance = (along**power + across**power) ** (1 / power)
    return np.asarray(((1.05 - distance) / 0.1).clip(0, 1)[..., None])


def _encode(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the tree; empty or new")
    parser.add_argument(
        "--per-class", type=int, default=100, help="images in each class of each split"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of names and pixels")
    args = parser.parse_args()
    try:
        make_tree(args.out, per_class=args.per_class, seed=args.seed)
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    count = len(SPLITS) * len(CLASS_SYNSETS) * args.per_class
    print(f"{count:,} images: {args.out}")


if __name__ == "__main__":
    main()
