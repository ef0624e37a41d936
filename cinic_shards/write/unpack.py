"""Unpack a dataset to the tree of PNGs that it was packed from."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS, Payloads
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.errors import FormatError, OutputError, problem_lines, reason_of
from cinic_shards.format import Index, Manifest, ShardInfo
from cinic_shards.format.provenance import ORIGINS, origins_named
from cinic_shards.jobs import Progress, Tally, make_executor, run_jobs
from cinic_shards.jobs.stop import check_stop
from cinic_shards.options import checked, number_of_workers
from cinic_shards.read.dataset import find_splits
from cinic_shards.read.open import open_shard, read_manifest
from cinic_shards.read.subset import check_classes
from cinic_shards.store import (
    LocalStore,
    Store,
    StoreLike,
    WorkFolder,
    local_path,
    open_store,
    sync_disk,
)
from cinic_shards.write.samples.packed import OpenShard, PackedSamples

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The result of ``unpack``.

    Example:
        >>> done = [unpack("shards", "tree", classes=["cat"]) for _ in range(2)]
        >>> done[0].num_written, done[1].num_kept
        (27, 27)
    """

    num_written: int
    """Number of files that were written."""
    num_kept: int
    """Number of files that already existed and are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackJob:
    """A shard, and the samples to write from it."""

    store: Store
    """The dataset's store."""
    out: Path
    """The tree's folder."""
    split: str
    info: ShardInfo
    num_classes: int
    classes: frozenset[str] | None = None
    """Write only these classes; None for all."""
    origins: frozenset[str] | None = None
    """Write only these origins; None for all."""
    rows: NDArray[np.int64] | None = None
    """Write only these rows of the shard, shape (n,); None for all."""
    new_split: str | None = None
    """Name of the split's folder in the tree; None for the split's name."""


@dataclass(frozen=True, slots=True)
class _Done:
    num_samples: int
    """Number of all samples of the shard, wanted or not."""
    num_written: int
    num_kept: int
    problems: tuple[str, ...]


@checked
def unpack(
    path: StoreLike,
    out: str | os.PathLike[str],
    *,
    splits: str | Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Unpacked:
    """Write the PNGs of a dataset back to ``out/<split>/<class>/<stem>.png``.

    PNGs from ``png`` shards have the same bytes as the packed files; PNGs from blocks are
    re-encoded, with the same pixels. An existing file is kept if it is the same, so the same call
    resumes an interrupted one. An existing file with different content is never replaced.

    All files are on the disk when the call returns. After a power cut before that, files may be
    incomplete, and the same call reports them as different: remove the tree then.

    Args:
        path: the dataset's folder, URL or open store.
        out: folder of the tree.
        splits: write only this split, or several as in ``train+valid`` or in a list; by default
            all.
        classes: write only these classes; by default all.
        origins: write only these origins, by the names of ``provenance.origins_named``; by default
            all.
        workers: number of processes; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Returns:
        The numbers of files that were written and kept.

    Raises:
        OptionError: the dataset does not have a split or class, or an origin is unknown.
        StoreError, FormatError: the dataset cannot be read, or is damaged; names the samples.
        OutputError: a file cannot be written, or exists with different content.

    Example:
        >>> unpack("shards", "tree", splits="train", classes=["cat", "dog"])
        Unpacked(num_written=18, num_kept=0)
    """
    workers = number_of_workers(workers)
    store = open_store(path)
    manifest = read_manifest(store)
    out = local_path(out)
    jobs = list(_jobs(store, manifest, out, splits, classes, origins))
    return unpack_jobs(store, out, jobs, workers=workers, progress=progress)


def unpack_jobs(
    store: Store, out: Path, jobs: Sequence[UnpackJob], *, workers: int, progress: Progress
) -> Unpacked:
    """Run unpacking jobs, all of the same dataset and output; see ``unpack``.

    Raises:
        StoreError, FormatError, OutputError: as ``unpack``.
    """
    target = LocalStore(out)
    try:
        with (
            target.undone_on_error(),
            WorkFolder(target, _TEMPORARY, "unpacking") as work,
            make_executor(workers) as executor,
        ):
            tally = Tally(progress, "unpack", sum(job.info.num_samples for job in jobs))
            try:
                results = run_jobs(
                    executor,
                    partial(_unpack_shard, work.path("")),
                    jobs,
                    done=lambda result: tally.add(result.num_samples),
                )
                sync_disk(out)
            finally:
                work.remove()
    except BrokenExecutor as error:
        raise OutputError(
            f"{out}: unpacking did not finish, a worker process died: it was killed (run the same "
            "command again to resume), or memory ran out (try fewer workers)"
        ) from error
    except OSError as error:
        raise OutputError(f"{error.filename or out}: {reason_of(error)}") from error
    if problems := [problem for result in results for problem in result.problems]:
        listed = problem_lines(problems)
        raise FormatError(str(store), f"{len(problems):,} samples could not be unpacked{listed}")
    return Unpacked(
        sum(result.num_written for result in results), sum(result.num_kept for result in results)
    )


_TEMPORARY = ".unpacking"
"""Folder in the output for files that are not complete yet; no split may have this name."""


def _jobs(
    store: Store,
    manifest: Manifest,
    out: Path,
    splits: str | Sequence[str] | None,
    classes: Sequence[str] | None,
    origins: Sequence[str] | None,
) -> Iterator[UnpackJob]:
    known_splits = [split.name for split in manifest.splits]
    if origins is not None:
        origins = [origin for name in origins for origin in origins_named(name)]
    if splits is None:
        wanted = known_splits
    else:
        names = splits if isinstance(splits, str) else "+".join(splits)
        wanted = find_splits(names, known_splits, str(store))
    check_classes(classes or (), manifest.classes, f"{store}: ")
    for split in manifest.splits:
        if split.name in wanted:
            for info in split.shards:
                yield UnpackJob(
                    store=store,
                    out=out,
                    split=split.name,
                    info=info,
                    num_classes=len(manifest.classes),
                    classes=None if classes is None else frozenset(classes),
                    origins=None if origins is None else frozenset(origins),
                )


def _unpack_shard(unfinished: Path, job: UnpackJob) -> _Done:
    """Write the wanted samples of one shard. Runs in any process.

    Args:
        unfinished: the begin of the paths of unfinished files.
        job: the shard and the samples.
    """
    memory, index = open_shard(job.store, job.info, job.num_classes)
    rows = _wanted(job, index)
    shard = OpenShard(job.info, memory, index)
    split = job.new_split or job.split
    samples = PackedSamples(split, lambda number: shard, np.zeros_like(rows), rows)
    is_copied = not ENCODINGS[index.encoding].has_blocks
    name = f"{unfinished.name}{job.new_split or job.split}-{job.info.name}"
    target = _Target(job, unfinished.with_name(name), are_copies=is_copied)
    for start, stop in samples.chunks():
        pngs, problems = samples.png_files(start, stop)
        for row, png in enumerate(pngs, start):
            check_stop()
            key = index.keys[rows[row]]
            problem = fmt.key_problem(key, job.split) or problems.get(row - start, "")
            if not problem and not png.startswith(_PNG_SIGNATURE):
                problem = f"not a PNG: it begins with {png[:16]!r}"
            problem = problem or target.put(samples.keys[row], png)
            if problem:
                target.problems.append(f"{samples.location(row)}: {problem}")
    return _Done(len(index), target.num_written, target.num_kept, tuple(target.problems))


class _Target:
    """The tree that a shard's files are written to."""

    def __init__(self, job: UnpackJob, partial_file: Path, *, are_copies: bool) -> None:
        self.problems: list[str] = []
        self.num_written = self.num_kept = 0
        self._out = job.out
        self._partial = partial_file
        self._are_copies = are_copies
        self._folders: set[str] = set()

    def put(self, key: str, png: bytes) -> str:
        """Write a file unless it exists; return a problem with an existing one, or ""."""
        folder = key.rpartition("/")[0]
        if folder not in self._folders:
            make_folder(self._out, folder)
            self._folders.add(folder)
        path = f"{self._out}/{key}.png"
        try:
            with open(path, "rb", buffering=0) as file:
                found = file.read()
        except FileNotFoundError:
            with open(self._partial, "wb") as file:
                file.write(png)
            os.replace(self._partial, path)
            self.num_written += 1
            return ""
        if found == png or (not self._are_copies and _has_same_pixels(found, png)):
            self.num_kept += 1
            return ""
        return f"{path} exists with different content; move it"


def _has_same_pixels(first: bytes, second: bytes) -> bool:
    """Return True if two PNGs have the same pixels; their bytes depend on the encoder."""
    files = np.frombuffer(first + second, np.uint8)
    sizes = np.array([len(first), len(second)])
    starts = np.cumsum(sizes) - sizes
    hashes, problems = ImageMeter().add_pngs(
        Payloads.in_buffer(files, starts, sizes), files, starts
    )
    return not problems and np.array_equal(hashes[0], hashes[1])


def _wanted(job: UnpackJob, index: Index) -> NDArray[np.int64]:
    wanted = np.ones(len(index), np.bool_)
    if job.rows is not None:
        wanted[:] = False
        wanted[job.rows] = True
    if job.origins is not None:
        wanted &= np.isin(index.origin, [ORIGINS.index(name) for name in job.origins])
    if job.classes is not None:
        wanted &= np.array([key.split("/")[1:2] != [] and key.split("/")[1] in job.classes
                            for key in index.keys], np.bool_)  # fmt: skip
    return np.flatnonzero(wanted)


def make_folder(out: Path, folder: str) -> None:
    """Make ``out/<split>/<class>``.

    Raises:
        OutputError: one of these folders is a symbolic link.
    """
    path = out
    for name in folder.split("/"):
        path = path / name
        path.mkdir(exist_ok=True)
        _check_folder(path)


def _check_folder(path: Path) -> None:
    if path.is_symlink():
        raise OutputError(f"{path}: a symbolic link, expected a folder; remove it")
