"""FFCV's side of ``bench_augment.py``: runs in an environment that has FFCV and not this package.

    python ffcv_epochs.py FOLDER '[[mean, ...], [std, ...]]'

FOLDER holds ``samples.npz``. Each line of the input names a pipeline: one epoch of it is run, and
its images a second are the answer.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import (
    NormalizeImage,
    RandomHorizontalFlip,
    RandomTranslate,
    ToTensor,
    ToTorchImage,
)
from ffcv.writer import DatasetWriter


class Samples:
    """All images and labels, as DatasetWriter wants them."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self.images, self.labels = arrays["images"], arrays["labels"].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.images[position], self.labels[position]


def open_loader(path: str, pipeline: str, mean: list[float], std: list[float]) -> Any:
    """FFCV's Loader at its best settings for data that fits into memory."""
    image: list[Any] = [SimpleRGBImageDecoder()]
    if "augmented" in pipeline:
        image += [RandomHorizontalFlip(), RandomTranslate(padding=4)]
    if "float32" in pipeline:  # statistics on the scale 0 to 255
        image.append(NormalizeImage(255 * np.array(mean), 255 * np.array(std), np.float32))
    image += [ToTensor(), ToTorchImage()]
    return Loader(
        path,
        batch_size=512,
        num_workers=2,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor()]},
    )


def main() -> None:
    """Write the file, then answer lines."""
    folder = Path(sys.argv[1])
    mean, std = json.loads(sys.argv[2])
    path = str(folder / "samples.beton")
    answers, sys.stdout = sys.stdout, sys.stderr
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(path, fields, num_workers=2).from_indexed_dataset(Samples(folder / "samples.npz"))
    loaders: dict[str, Any] = {}
    for line in sys.stdin:
        pipeline = line.strip()
        if pipeline not in loaders:
            loaders[pipeline] = open_loader(path, pipeline, mean, std)
        start = time.perf_counter()
        count = sum(len(labels) for _, labels in loaders[pipeline])
        print(count / (time.perf_counter() - start), file=answers, flush=True)


if __name__ == "__main__":
    main()
