"""Decode any rows of a dataset in several threads, whatever their encoding and image size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.png_head import HEAD_BYTES, check_heads
from cinic_shards.errors import DecodeError, FormatError, problem_lines
from cinic_shards.jobs import Progress, Tally, run_jobs
from cinic_shards.jobs.stop import check_stop
from cinic_shards.jobs.threads import ThreadPool
from cinic_shards.options import number_of_workers
from cinic_shards.read.split import SplitReader

R = TypeVar("R")

_CHUNK_BYTES = 2**24
"""Most bytes of decoded files that each thread holds at once, unless a single image is larger."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images of one size."""

    rows: NDArray[np.int64]
    """Row of each image in the reader, shape (n,)."""
    pixels: NDArray[np.uint8]
    """The images, shape (n, H, W, 3), C-contiguous."""


def map_images(
    reader: SplitReader,
    rows: NDArray[np.int64],
    function: Callable[[Images], R],
    *,
    doing: str,
    workers: int | None = None,
    errors: list[DecodeError] | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> list[R]:
    """Decode each of these rows once, and pass the images to a function in groups of one size.

    Args:
        reader: reader of the splits that hold the rows.
        rows: ascending rows of ``reader``, shape (N,).
        function: called from several threads at once.
        doing: name of this operation in ``progress``.
        workers: number of threads; by default the cores that this process may use.
        errors: a list to which errors are appended, one for each image that fails to decode, with
            the reader's row as ``position``. If None, they are raised together at the end.
        progress: see ``jobs.Progress``.

    Returns:
        The function's results, in the order of the rows' blocks.

    Raises:
        OptionError: ``workers`` is less than 1.
        FormatError: images are damaged, and ``errors`` is None; names the images.
        StoreError: the dataset cannot be read.
    """
    workers = number_of_workers(workers)
    starts = np.searchsorted(rows, reader.block_starts)
    blocks = np.flatnonzero(np.diff(starts)).tolist()
    found: list[DecodeError] = []
    tally = Tally(progress, doing, len(rows))

    def work(block: int) -> tuple[int, list[R]]:
        of_block = rows[starts[block] : starts[block + 1]]
        results = [function(images) for images in _read_block(reader, block, of_block, found)]
        return len(of_block), results

    with ThreadPool(workers, "cinic-shards-job") as threads:
        results = run_jobs(threads, work, blocks, done=lambda result: tally.add(result[0]))
    found.sort(key=lambda error: error.position)
    if errors is not None:
        errors += found
    elif found:
        listed = problem_lines(found)
        raise FormatError(
            f"split {reader.name}", f"{len(found):,} images cannot be decoded{listed}"
        )
    return [result for _, of_block in results for result in of_block]


def _read_block(
    reader: SplitReader, block: int, rows: NDArray[np.int64], errors: list[DecodeError]
) -> Iterator[Images]:
    """Yield the images of some rows of one block."""
    if not reader.encoding.has_blocks:
        yield from _read_files(reader, rows, errors)
        return
    first, stop = reader.block_starts[block : block + 2].tolist()
    pixels = np.empty((stop - first, *reader.image_shape), np.uint8)
    bad = {first + error.position: error for error in reader.read_block(block, pixels)}
    wanted = set(rows.tolist())
    errors += [
        DecodeError(row, error.reason, error.location)
        for row, error in bad.items()
        if row in wanted
    ]
    good = rows[~np.isin(rows, list(bad))]
    yield Images(good, pixels if len(good) == len(pixels) else pixels[good - first])


def _read_files(
    reader: SplitReader, rows: NDArray[np.int64], errors: list[DecodeError]
) -> Iterator[Images]:
    for (height, width), of_size in _by_size(reader, rows, errors):
        at_once = max(1, _CHUNK_BYTES // (3 * height * width))
        for some in np.split(of_size, range(at_once, len(of_size), at_once)):
            check_stop()
            pixels = np.empty((len(some), height, width, 3), np.uint8)
            bad = reader.read_images(some, pixels)
            if bad:
                errors += [DecodeError(int(some[e.position]), e.reason, e.location) for e in bad]
                good = np.setdiff1d(np.arange(len(some)), [error.position for error in bad])
                some, pixels = some[good], pixels[good]
            yield Images(some, pixels)


def _by_size(
    reader: SplitReader, rows: NDArray[np.int64], errors: list[DecodeError]
) -> Iterator[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Yield each (height, width) with the rows of the files of that size."""
    if len(reader.image_sizes) == 1:
        yield next(iter(reader.image_sizes)), rows
        return
    payloads = reader.payloads(rows)
    heads = np.zeros((len(rows), HEAD_BYTES), np.uint8)
    for position in range(len(rows)):
        head = payloads.memory(position)[:HEAD_BYTES]
        heads[position, : len(head)] = head
    starts = np.arange(0, heads.size, HEAD_BYTES)
    extents, problems = check_heads(heads.reshape(-1), starts, payloads.lengths)
    for position, problem in problems.items():
        row = int(rows[position])
        errors.append(DecodeError(row, problem, reader.locate(row)))
    sizes, size_of = np.unique(extents, axis=0, return_inverse=True)
    for number, (height, width) in enumerate(sizes.tolist()):
        if height:
            yield (height, width), rows[size_of.ravel() == number]
