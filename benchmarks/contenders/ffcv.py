"""FFCV: raw pixels in one file, read and augmented by compiled code.

``os_cache=True`` and OrderOption.RANDOM, as its tuning guide advises for data that fits into memory
(https://docs.ffcv.io/parameter_tuning.html). Its only lossless mode is raw. It augments with its
own flip, translate (the padded crop) and NormalizeImage, compiled into one pass in the first epoch.
"""

from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    MEAN,
    PADDING,
    STD,
    Batches,
    Contender,
    Reading,
    pixels_of,
    samples_of,
)


class Images:
    """The dataset that DatasetWriter reads."""

    def __init__(self, split: Path) -> None:
        self.samples = samples_of(split)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        path, label = self.samples[position]
        return pixels_of(path), label


def build(split: Path, out: Path) -> None:
    """Build with DatasetWriter and as many workers as cores."""
    import os

    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer = DatasetWriter(str(out / "split.beton"), fields, num_workers=os.cpu_count() or 1)
    writer.from_indexed_dataset(Images(split))


def epochs(out: Path, reading: Reading) -> Batches:
    """Open FFCV's Loader."""
    import numpy as np
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import (
        NormalizeImage,
        RandomHorizontalFlip,
        RandomTranslate,
        Squeeze,
        ToTensor,
        ToTorchImage,
    )

    image: list[Any] = [SimpleRGBImageDecoder()]
    if reading.augmented:
        mean, std = 255 * np.array(MEAN), 255 * np.array(STD)  # on the scale 0 to 255
        image += [RandomHorizontalFlip(), RandomTranslate(padding=PADDING)]
        image.append(NormalizeImage(mean, std, np.float32))
    image += [ToTensor(), ToTorchImage()]
    loader: Batches = Loader(
        str(out / "split.beton"),
        batch_size=reading.batch_size,
        num_workers=reading.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)]},
    )
    return loader


CONTENDERS = [
    Contender(
        name="FFCV, raw",
        build=build,
        epochs=epochs,
        modules=("ffcv", "PIL"),
        environment="ffcv",
        workers=(1, 2, 4),
    ),
]
