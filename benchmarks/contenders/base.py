"""A contender, how it is asked to read, and what contenders share.

Only the standard library is imported at first: contenders run in environments of their own.
"""

import importlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEAN, STD = (0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)
"""CINIC-10's channels on the scale 0 to 1, as its authors publish them
(https://github.com/BayesWatch/cinic-10)."""

SIDE, PADDING = 32, 4

Batches = Iterable[Any]
"""Each iteration is one shuffled epoch of (images, labels) with every image once. Images are a
tensor or an array of N, uint8 or float32; labels are int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a contender is to read its epochs."""

    workers: int
    """Processes or threads, whichever it has; 0: only the caller's."""
    batch_size: int = 512
    augmented: bool = False
    """False: uint8 as stored. True: random crop with a padding of 4, random flip, float32
    normalised by ``MEAN`` and ``STD``."""
    url: str = ""
    """An ``s3://`` prefix with what ``build`` wrote; "": the folder itself. Endpoint and
    credentials are in the environment."""
    signed: tuple[str, ...] = ()
    """Signed URLs of the same objects, for libraries that only speak HTTP."""
    cache: str = ""
    """An empty folder for fetched files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to store a split and to read it."""

    name: str
    """Name in tables: the library, and how pixels are stored."""
    build: Callable[[Path, Path], None]
    """Writes a folder of ``<class>/*.png`` to an empty folder."""
    epochs: Callable[[Path, Reading], Batches]
    """Opens the folder that ``build`` wrote."""
    modules: tuple[str, ...]
    """Must import; the first is the library."""
    environment: str = "project"
    """Name of the environment where it is installed: see ``environments``."""
    workers: tuple[int, ...] = (0, 2, 4)
    """Settings that are tried; the best counts."""
    streams: bool = False
    """True if it can read what ``build`` wrote from S3."""

    @property
    def library(self) -> str:
        """The name without the way of storing."""
        return self.name.partition(",")[0]

    def missing(self) -> str:
        """Import its libraries; return why it cannot run here, "" if it can."""
        try:
            if "torchvision" in self.modules:  # first: others import it, too
                import_torchvision()
            for module in self.modules:
                importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return ""


def samples_of(split: Path) -> list[tuple[Path, int]]:
    """The PNGs of a split and their labels, in ImageFolder's order."""
    classes = sorted(path for path in split.iterdir() if path.is_dir())
    return [(path, label) for label, name in enumerate(classes) for path in sorted(name.iterdir())]


def pixels_of(png: Path | bytes) -> Any:
    """uint8 (H, W, 3), decoded by Pillow."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png) if isinstance(png, bytes) else png) as image:
        return np.asarray(image.convert("RGB"))


def per_image(reading: Reading) -> Callable[[Any], Any]:
    """Torchvision's transforms for one image: PIL's, or uint8 (H, W, 3).

    PIL images are cropped and flipped as such, arrays as tensors: the faster way for each.
    """
    import_torchvision()
    import torch
    from torchvision import transforms
    from torchvision.transforms import v2

    if not reading.augmented:
        to_tensor = transforms.PILToTensor()

        def plain(image: Any) -> Any:
            if hasattr(image, "mode"):
                return to_tensor(image)
            return torch.from_numpy(image).permute(2, 0, 1)

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
        if hasattr(image, "mode"):
            return for_pil(image)
        return for_tensors(torch.from_numpy(image).permute(2, 0, 1))

    return augmented


def data_loader(dataset: Any, reading: Reading, **options: Any) -> Any:
    """Torch's DataLoader; workers stay alive between epochs."""
    from torch.utils.data import DataLoader

    return DataLoader(
        dataset,
        num_workers=reading.workers,
        persistent_workers=reading.workers > 0,
        **{"batch_size": reading.batch_size} | options,
    )


def import_torchvision() -> None:
    """Import torchvision, also beside a CPU build of torch that lacks its operators."""
    from cinic_shards.loader import bench  # imports torch alone, which every environment has

    bench.import_torchvision()


def stack(images: Sequence[Any]) -> Any:
    """Join tensors of one shape in a new first dimension."""
    import torch

    return torch.stack(list(images))
