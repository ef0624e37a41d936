"""The interface of a contender, its reading options, and helpers that contenders share.

Importing this module needs only the standard library: contenders run in separate environments.
"""

import importlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEAN, STD = (0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)
"""Statistics of CINIC-10's channels on the scale 0 to 1, as its authors publish them
(https://github.com/BayesWatch/cinic-10)."""

SIDE, PADDING = 32, 4
"""Side of an image, and padding of a random crop, in pixels."""

Batches = Iterable[Any]
"""Each iteration is one shuffled epoch of batches (images, labels) with every image once. Images
are a tensor or an array of N images, uint8 or float32; labels are int64, shape (N,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Options for reading epochs."""

    workers: int
    """Number of processes or threads, whichever the library has; 0 for the caller's only."""
    batch_size: int = 512
    augmented: bool = False
    """False: uint8 as stored. True: random crop with a padding of 4, random flip, float32
    normalised by ``MEAN`` and ``STD``."""
    url: str = ""
    """An ``s3://`` prefix with the files that ``build`` wrote; "" to read the folder itself.
    Endpoint and credentials are in environment variables."""
    signed: tuple[str, ...] = ()
    """Signed URLs of the same objects, for libraries that support only HTTP."""
    cache: str = ""
    """An empty folder for fetched files, if ``url`` is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to store and read a split."""

    name: str
    """Name in tables: the library, then the format of the images."""
    build: Callable[[Path, Path], None]
    """Writes a folder of ``<class>/*.png`` to an empty folder."""
    epochs: Callable[[Path, Reading], Batches]
    """Opens the folder that ``build`` wrote."""
    modules: tuple[str, ...]
    """Modules that it imports; the first is the library."""
    environment: str = "project"
    """Name of the environment in which it is installed; see ``environments``."""
    workers: tuple[int, ...] = (0, 2, 4)
    """Numbers of workers to try; the best one counts."""
    streams: bool = False
    """True if it can read its files from S3."""

    @property
    def library(self) -> str:
        """The name without the format."""
        return self.name.partition(",")[0]

    def missing(self) -> str:
        """Import its modules; return why it cannot run here, or "" if it can."""
        try:
            if "torchvision" in self.modules:  # first, because other modules import it too
                import_torchvision()
            for module in self.modules:
                importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return ""


def samples_of(split: Path) -> list[tuple[Path, int]]:
    """List the PNGs of a split with their labels, in ImageFolder's order."""
    classes = sorted(path for path in split.iterdir() if path.is_dir())
    return [(path, label) for label, name in enumerate(classes) for path in sorted(name.iterdir())]


def pixels_of(png: Path | bytes) -> Any:
    """Decode a PNG with Pillow, to uint8 (H, W, 3)."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png) if isinstance(png, bytes) else png) as image:
        return np.asarray(image.convert("RGB"))


def per_image(reading: Reading) -> Callable[[Any], Any]:
    """Return torchvision's transforms for one image.

    The image is a PIL image, a numpy array uint8 (H, W, 3) or a tensor uint8 (3, H, W). PIL images
    are cropped and flipped as PIL images, the others as tensors: each is the faster way.
    """
    import_torchvision()
    import torch
    from PIL.Image import Image
    from torchvision import transforms
    from torchvision.transforms import v2

    def tensor_of(image: Any) -> Any:
        return (
            image if isinstance(image, torch.Tensor) else torch.from_numpy(image).permute(2, 0, 1)
        )

    if not reading.augmented:
        to_tensor = transforms.PILToTensor()

        def plain(image: Any) -> Any:
            return to_tensor(image) if isinstance(image, Image) else tensor_of(image)

        return plain
    for_pil = transforms.Compose([
        transforms.RandomCrop(SIDE, PADDING),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    for_tensors = v2.Compose([
        v2.RandomCrop(SIDE, PADDING),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip

    def augmented(image: Any) -> Any:
        if isinstance(image, Image):
            return for_pil(image)
        return for_tensors(tensor_of(image))

    return augmented


class Decode:
    """Turns stored images into a batch; a class, so that spawned workers can unpickle it.

    Args:
        kind: "png" for files, which Pillow decodes, or "raw" for pixels, uint8 (32, 32, 3).
        reading: options; augments if they say so.
    """

    def __init__(self, kind: str, reading: Reading) -> None:
        self.kind, self.reading = kind, reading
        self.transform: Any = None

    def __call__(self, images: Sequence[bytes]) -> Any:
        """Return a tensor of N images from the bytes of each."""
        if self.kind == "png":
            return self.batch([self.opened(image) for image in images])
        import numpy as np

        pixels = np.frombuffer(bytearray().join(images), np.uint8)
        return self.batch(pixels.reshape(-1, SIDE, SIDE, 3))

    def batch(self, images: Any) -> Any:
        """Return a tensor of N images from PIL images, or an array uint8 (N, 32, 32, 3)."""
        import torch

        if hasattr(images, "shape") and not self.reading.augmented:  # no work for each image
            return torch.from_numpy(images).permute(0, 3, 1, 2)
        if self.transform is None:
            self.transform = per_image(self.reading)
        return stack([self.transform(image) for image in images])

    @staticmethod
    def opened(png: bytes) -> Any:
        """Open a PNG file as a PIL image."""
        from PIL import Image

        return Image.open(io.BytesIO(png)).convert("RGB")


def data_loader(dataset: Any, reading: Reading, **options: Any) -> Any:
    """Make torch's DataLoader; its workers stay alive between epochs."""
    from torch.utils.data import DataLoader

    return DataLoader(
        dataset,
        num_workers=reading.workers,
        persistent_workers=reading.workers > 0,
        **{"batch_size": reading.batch_size} | options,
    )


def import_torchvision() -> None:
    """Import torchvision, even with a CPU build of torch that lacks its operators."""
    from cinic_shards.loader import bench  # needs only torch, which every environment has

    bench.import_torchvision()


def stack(images: Sequence[Any]) -> Any:
    """Stack tensors of one shape along a new first dimension."""
    import torch

    return torch.stack(list(images))
