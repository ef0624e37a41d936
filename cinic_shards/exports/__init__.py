"""Write a dataset, or part of it, in the files of other libraries."""

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from cinic_shards.errors import OutputError, few
from cinic_shards.exports import arrays, cifar, parquet
from cinic_shards.exports.base import Export, Writer
from cinic_shards.jobs import Progress, Tally
from cinic_shards.options import checked, number_of_workers, one_of
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.subset import Subset
from cinic_shards.store import LocalStore, StoreLike, local_path
from cinic_shards.write.splits import choose

Format = Literal["npz", "npy", "pt", "parquet", "cifar"]

_WRITERS: dict[Format, Callable[[], Writer]] = {
    "npz": arrays.NpzWriter,
    "npy": arrays.NpyWriter,
    "pt": arrays.TorchWriter,
    "parquet": parquet.ParquetWriter,
    "cifar": cifar.CifarWriter,
}
assert set(_WRITERS) == set(get_args(Format))


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of ``export``.

    Example:
        >>> done = export("shards", "arrays", "npy", splits="test")
        >>> [file.name for file in done.files]
        ['test_images.npy', 'test_labels.npy', 'test_keys.txt', 'classes.txt']
    """

    files: tuple[Path, ...]
    """The files that were written."""
    num_samples: int


@checked
def export(
    path: StoreLike,
    out: str | os.PathLike[str],
    format: Format,  # noqa: A002 - as the command's option is called
    *,
    splits: str | Sequence[str] = (),
    subset: Subset | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Exported:
    """Write a dataset, or part of it, as files that other libraries read.

    Except for ``parquet``, the images of a split have ImageFolder's order: by class, then by file
    name. They are held in memory, one split at a time: 276 MB for each of CINIC-10's. ``parquet``
    has the order of the shards, and holds one chunk of files.

    Args:
        path: the dataset's folder, URL or open store.
        out: folder for the files.
        format: how to write each split:

            - ``npz``: ``train.npz`` with ``images``, uint8 (N, H, W, 3), ``labels``, int64 (N,),
              ``keys``, (N,), and the ``classes``.
            - ``npy``: ``train_images.npy``, ``train_labels.npy`` and ``train_keys.txt``, and
              ``classes.txt``.
            - ``pt``: ``train.pt``, for ``torch.load``: a dict of ``images``, uint8 (N, 3, H, W) in
              memory format channels last, ``labels``, ``keys`` and ``classes``.
            - ``parquet``: ``train-00000-of-00001.parquet``, as Hugging Face's image datasets: an
              ``image`` of PNG bytes and file name, and a ``label`` with the class names. The split
              ``valid`` is called ``validation``.
            - ``cifar``: CIFAR-10's pickled batches: ``data_batch_1`` to ``data_batch_5`` of
              ``train``, ``test_batch``, ``valid_batch`` and ``batches.meta``.
        splits: see ``select``: by default all.
        subset: the samples to write of each split.
        workers: number of threads; by default the cores that this process may use.
        progress: see ``jobs.Progress``.
        warn: called with each warning, as a text.

    Raises:
        OptionError: an option is invalid, no sample is left, or a library is not installed.
        StoreError, FormatError: the dataset cannot be read, is damaged, or has images of several
            sizes, which only ``parquet`` takes.
        OutputError: a file exists or cannot be written. Nothing half-made is left.

    Example:
        >>> export("shards", "arrays", "npz", splits="train").num_samples
        90
        >>> import numpy as np
        >>> content = np.load("arrays/train.npz")
        >>> content["images"].shape, str(content["classes"][content["labels"][0]])
        ((90, 32, 32, 3), 'airplane')
    """
    one_of("format", format, Format)
    writer = _WRITERS[format]()
    folder, dataset = LocalStore(local_path(out)), Dataset(path)
    chosen = choose(dataset, splits, subset or Subset(), warn)
    tally = Tally(progress, "export", sum(len(new.keys) for new in chosen))
    wanted, workers = subset or Subset(), number_of_workers(workers)
    exports = [Export(dataset, new, wanted, workers, tally) for new in chosen]
    names = [name for one in exports for name in writer.names(one)] + writer.common_names()
    if taken := [name for name in names if os.path.lexists(folder.root / name)]:
        raise OutputError(f"{out}: {few(taken)} exists; remove it, or write elsewhere")
    with folder.undone_on_error():
        folder.make()
        with ExitStack() as stack:  # all files get their names when all are complete

            def create(name: str) -> BinaryIO:
                return stack.enter_context(folder.create(name))

            for one in exports:
                writer.write(one, create)
            writer.write_common(exports, create)
    return Exported(tuple(folder.root / name for name in names), tally.done)
