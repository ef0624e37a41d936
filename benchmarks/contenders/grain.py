"""Grain over ArrayRecord files of PNGs, or of pixels, with ``group_size:1`` for random access.

As its documentation advises (https://google-grain.readthedocs.io): a MapDataset that is shuffled
globally, mapped and batched before it becomes an IterDataset, then ``mp_prefetch``; ``repeat``
keeps its processes. Pixels are batched first and decoded as one array, without Python work for each
image; numpy augments image by image.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import (
    MEAN,
    PADDING,
    SIDE,
    STD,
    Batches,
    Contender,
    Reading,
    pixels_of,
    samples_of,
)


def build(kind: str) -> Callable[[Path, Path], None]:
    """Build with ArrayRecordWriter: a record is the label as one byte, then the image."""

    def write(split: Path, out: Path) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(out / "split.array_record"), "group_size:1")
        for path, label in samples_of(split):
            image = path.read_bytes() if kind == "png" else pixels_of(path).tobytes()
            writer.write(struct.pack("B", label) + image)
        writer.close()

    return write


def augment(image: Any, rng: Any) -> Any:
    """Crop and flip one image, uint8 (H, W, 3), at random, with numpy."""
    import numpy as np

    padded = np.zeros((SIDE + 2 * PADDING, SIDE + 2 * PADDING, 3), np.uint8)
    padded[PADDING:-PADDING, PADDING:-PADDING] = image
    top, left, flip = rng.integers(0, [2 * PADDING + 1, 2 * PADDING + 1, 2])
    cut = padded[top : top + SIDE, left : left + SIDE]
    return cut[:, ::-1] if flip else cut


def epochs(kind: str) -> Callable[[Path, Reading], Batches]:
    """Open epochs of one endless iterator, whose processes stay alive between epochs."""

    def open_loader(out: Path, reading: Reading) -> Batches:
        return Epochs(out, reading, kind)

    return open_loader


class Epochs:
    """Epochs by ``repeat``, which shuffles each again; one that is left early is continued next."""

    def __init__(self, out: Path, reading: Reading, kind: str) -> None:
        import grain

        self.reading, self.kind = reading, kind
        source = grain.sources.ArrayRecordDataSource(str(out / "split.array_record"))
        data = grain.MapDataset.source(source).seed(0).shuffle()
        data = self._augmented(data) if reading.augmented else self._plain(data)
        self.num_batches = len(data)
        epochs = data.repeat().to_iter_dataset(
            grain.ReadOptions(num_threads=16, prefetch_buffer_size=64)
        )
        if reading.workers:
            epochs = epochs.mp_prefetch(grain.MultiprocessingOptions(num_workers=reading.workers))
        self.epochs = epochs
        self.iterator: Any = None

    def __iter__(self) -> Iterator[Any]:
        if self.iterator is None:
            self.iterator = iter(self.epochs)
        for _ in range(self.num_batches):
            yield next(self.iterator)

    def _plain(self, data: Any) -> Any:
        import numpy as np

        kind = self.kind

        def decode(records: Any) -> tuple[Any, Any]:
            labels = np.array([record[0] for record in records], np.int64)
            if kind == "png":
                return np.stack([pixels_of(record[1:]) for record in records]), labels
            rows = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)
            return rows[:, 1:].reshape(-1, SIDE, SIDE, 3), labels

        return data.batch(self.reading.batch_size, batch_fn=decode)

    def _augmented(self, data: Any) -> Any:
        import numpy as np

        kind = self.kind
        scale = np.float32(1 / (255 * np.array(STD)))
        bias = np.float32(np.array(MEAN) / np.array(STD))

        def decode(record: bytes, rng: Any) -> tuple[Any, int]:
            if kind == "png":
                image = pixels_of(record[1:])
            else:
                image = np.frombuffer(record, np.uint8, offset=1).reshape(SIDE, SIDE, 3)
            return augment(image, rng), record[0]

        def normalise(samples: Any) -> tuple[Any, Any]:
            images = np.stack([image for image, _ in samples])
            return images * scale - bias, np.array([label for _, label in samples], np.int64)

        return data.random_map(decode).batch(self.reading.batch_size, batch_fn=normalise)


CONTENDERS = [
    Contender(
        name=f"Grain + ArrayRecord, {kind}",
        build=build(kind),
        epochs=epochs(kind),
        modules=("grain", "array_record", "PIL"),
        environment="grain",
    )
    for kind in ("png", "raw")
]
