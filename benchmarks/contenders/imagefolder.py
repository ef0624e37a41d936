"""torchvision's ImageFolder in a DataLoader, on the unchanged folder.

As in torchvision's reference training (https://github.com/pytorch/vision, ``references``): a
shuffling DataLoader, whose workers persist between epochs. PIL transforms: for 32x32 images they
are faster than those on tensors (v2 is no faster on single images).
"""

from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    Batches,
    Contender,
    Reading,
    data_loader,
    import_torchvision,
    per_image,
)


def build(split: Path, out: Path) -> None:
    """Make a symbolic link; there is nothing to convert."""
    (out / "split").symlink_to(split.resolve())


def epochs(out: Path, reading: Reading, **options: Any) -> Batches:
    """Open a DataLoader over ImageFolder, with these options of ImageFolder."""
    import_torchvision()
    from torchvision.datasets import ImageFolder

    loader: Batches = data_loader(
        ImageFolder(out / "split", per_image(reading), **options), reading, shuffle=True
    )
    return loader


CONTENDERS = [
    Contender(name="ImageFolder", build=build, epochs=epochs, modules=("torchvision", "torch")),
]
