"""A loader written by hand: the entire split as a tensor in memory, read by ``index_select``.

For data that fits into memory. It reads and checks nothing during an epoch, but cannot start before
all images are loaded. Torch operations augment a batch: they pad it, take a window of each image,
flip, and normalise.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    MEAN,
    PADDING,
    SIDE,
    STD,
    Contender,
    Reading,
    pixels_of,
    samples_of,
)


def build(split: Path, out: Path) -> None:
    """Write all pixels and all labels to two npy files."""
    import numpy as np

    samples = samples_of(split)
    np.save(out / "images.npy", np.stack([pixels_of(path) for path, _ in samples]))
    np.save(out / "labels.npy", np.array([label for _, label in samples], np.int64))


class Epochs:
    """Epochs of a split whose pixels are all in memory."""

    def __init__(self, out: Path, reading: Reading) -> None:
        import numpy as np
        import torch

        torch.set_num_threads(reading.workers)
        self.images = torch.from_numpy(np.load(out / "images.npy"))
        self.labels = torch.from_numpy(np.load(out / "labels.npy"))
        self.reading = reading
        self.mean, self.std = (torch.tensor(values) * 255 for values in (MEAN, STD))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        import torch

        for rows in torch.randperm(len(self.labels)).split(self.reading.batch_size):
            images = self.images.index_select(0, rows)
            if self.reading.augmented:
                images = self._augment(images)
            yield images, self.labels.index_select(0, rows)

    def _augment(self, images: Any) -> Any:
        import torch

        count = len(images)
        padded = torch.nn.functional.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
        windows = padded.unfold(1, SIDE, 1).unfold(2, SIDE, 1)  # (N, top, left, 3, H, W)
        top, left = torch.randint(0, 2 * PADDING + 1, (2, count))
        cut = windows[torch.arange(count), top, left].permute(0, 2, 3, 1)
        flip = torch.rand(count) < 0.5
        cut = torch.where(flip[:, None, None, None], cut.flip(2), cut)
        return cut.float().sub_(self.mean).div_(self.std)


CONTENDERS = [
    Contender(
        name="tensor in memory",
        build=build,
        epochs=Epochs,
        modules=("torch", "PIL"),
        workers=(1, 2),
    ),
]
