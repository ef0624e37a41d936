"""A dataset -> the tree of PNGs that it was packed from."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS, Payloads
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.errors import FormatError, OptionError, OutputError, some_lines
from cinic_shards.format import Index, Manifest, ShardInfo
from cinic_shards.format.provenance import ORIGINS, origins_named
from cinic_shards.jobs import Progress, Tally, make_executor, run_jobs
from cinic_shards.options import number_of_workers
from cinic_shards.read.open import open_shard, read_manifest
from cinic_shards.store import Store, StoreLike, lock_file, open_store
from cinic_shards.write.samples.packed import OpenShard, PackedSamples

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What ``unpack`` did."""

    num_written: int
    num_kept: int
    """Files that were there already, with the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackJob:
    """A shard, and what of it is to be written."""

    store: Store
    """Where the dataset lies."""
    out: Path
    """Where the tree goes."""
    split: str
    info: ShardInfo
    num_classes: int
    classes: frozenset[str] | None = None
    """Only these; None for all."""
    origins: frozenset[str] | None = None
    """Only these; None for all."""
    rows: NDArray[np.int64] | None = None
    """Only these; None for all."""
    new_split: str | None = None
    """The folder to write to, where it is not named as the split is."""


@dataclass(frozen=True, slots=True)
class _Done:
    num_samples: int
    """Of the shard, wanted or not."""
    num_written: int
    num_kept: int
    problems: tuple[str, ...]


def unpack(
    path: StoreLike,
    out: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Unpacked:
    """Write the PNGs of a dataset back to ``out/<split>/<class>/<stem>.png``.

    From ``png`` shards byte for byte; from blocks encoded anew, with the same pixels. A file that
    is there already is kept where it is the same, so the same call goes on where an earlier one was
    stopped; where it is another one, it is never replaced.

    Args:
        path: where the dataset lies; a folder, a URL or an open store.
        out: where the tree goes.
        splits: only these; by default all.
        classes: only these.
        origins: only these, by the names of ``provenance.origins_named``.
        workers: processes; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Raises:
        OptionError: a split, class or origin that the dataset does not have.
        StoreError, FormatError: the dataset cannot be read, or is damaged; names the sample.
        OutputError: a file cannot be written, or is there with other bytes.
    """
    workers = number_of_workers(workers)
    store = open_store(path)
    manifest = read_manifest(store)
    out = Path(out)
    jobs = list(_jobs(store, manifest, out, splits, classes, origins))
    return unpack_jobs(store, out, jobs, workers=workers, progress=progress)


def unpack_jobs(
    store: Store, out: Path, jobs: Sequence[UnpackJob], *, workers: int, progress: Progress
) -> Unpacked:
    """Write what these jobs, all of one dataset and output, are to write; see ``unpack``.

    Raises:
        StoreError, FormatError, OutputError: as ``unpack``.
    """
    workshop = out / _WORKSHOP
    _check_folder(workshop)
    lock = None
    try:
        workshop.mkdir(parents=True, exist_ok=True)
        lock = lock_file(workshop / "lock")
        if lock is None:
            raise OutputError(f"{out}: another process is unpacking there")
        with lock, make_executor(workers) as executor:
            tally = Tally(progress, "unpack", sum(job.info.num_samples for job in jobs))
            results = run_jobs(
                executor, _unpack_shard, jobs, done=lambda result: tally.add(result.num_samples)
            )
    except OSError as error:
        raise OutputError(f"{error.filename or out}: {error.strerror}") from error
    finally:
        if lock is not None:
            with suppress(OSError):
                for name in os.listdir(workshop):  # of workers that were killed
                    os.unlink(workshop / name)
                workshop.rmdir()
                out.rmdir()  # where nothing was written
    if problems := [problem for result in results for problem in result.problems]:
        listed = some_lines(problems)
        raise FormatError(str(store), f"{len(problems)} samples could not be unpacked{listed}")
    return Unpacked(
        sum(result.num_written for result in results), sum(result.num_kept for result in results)
    )


_WORKSHOP = "_unpacking"
"""Below the output: files lie here until they are whole."""


def _jobs(
    store: Store,
    manifest: Manifest,
    out: Path,
    splits: Sequence[str] | None,
    classes: Sequence[str] | None,
    origins: Sequence[str] | None,
) -> Iterator[UnpackJob]:
    known_splits = [split.name for split in manifest.splits]
    if origins is not None:
        origins = [origin for name in origins for origin in origins_named(name)]
    for kind, asked, known in (
        ("split", splits, known_splits),
        ("class", classes, manifest.classes),
    ):
        if unknown := [name for name in asked or () if name not in known]:
            raise OptionError(f"{store}: no {kind} {unknown[0]!r}; there is {', '.join(known)}")
    for split in manifest.splits:
        if splits is None or split.name in splits:
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


def _unpack_shard(job: UnpackJob) -> _Done:
    """Write the wanted samples of one shard. Runs in any process."""
    memory, index = open_shard(job.store, job.info, job.num_classes)
    rows = _wanted(job, index)
    shard = OpenShard(job.info, memory, index)
    samples = PackedSamples(job.new_split or job.split, [shard], np.zeros_like(rows), rows)
    is_copied = not ENCODINGS[index.encoding].has_blocks
    target = _Target(job, are_copies=is_copied)
    for start, stop in samples.chunks():
        pngs, problems = samples.png_files(start, stop)
        for row, png in enumerate(pngs, start):
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

    def __init__(self, job: UnpackJob, *, are_copies: bool) -> None:
        self.problems: list[str] = []
        self.num_written = self.num_kept = 0
        self._out = job.out
        self._partial = job.out / _WORKSHOP / f"{job.new_split or job.split}-{job.info.name}"
        self._are_copies = are_copies
        self._folders: set[str] = set()

    def put(self, key: str, png: bytes) -> str:
        """Write a file that does not exist yet; gives what is wrong with one that does."""
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
        return f"{path} is there with other bytes; move it away"


def _has_same_pixels(one: bytes, other: bytes) -> bool:
    """Whether two PNGs show the same: their bytes depend on who wrote them."""
    files = np.frombuffer(one + other, np.uint8)
    sizes = np.array([len(one), len(other)])
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
    """Make ``out/<split>/<class>``, neither of them a link that leads elsewhere."""
    path = out
    for name in folder.split("/"):
        path = path / name
        path.mkdir(exist_ok=True)
        _check_folder(path)


def _check_folder(path: Path) -> None:
    if path.is_symlink():
        raise OutputError(f"{path}: a link, which may lead elsewhere; remove it")
