"""A dataset -> the tree of PNGs that it was packed from."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.errors import FormatError, OptionError, OutputError
from cinic_shards.format import Index, Manifest, ShardInfo
from cinic_shards.provenance import ORIGINS
from cinic_shards.store import LocalStore, open_shard, open_store, read_manifest
from cinic_shards.workers import Progress, make_executor, run_jobs, usable_cores

_MAX_LISTED = 20
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What ``unpack`` did."""

    num_written: int
    num_kept: int
    """Files that were there already, with the same bytes."""


@dataclass(frozen=True, slots=True)
class _Job:
    root: Path
    out: Path
    split: str
    info: ShardInfo
    num_classes: int
    classes: frozenset[str] | None
    origins: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class _Done:
    num_samples: int
    """Of the shard, wanted or not."""
    num_written: int
    num_kept: int
    problems: tuple[str, ...]


def unpack(
    place: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Unpacked:
    """Write the PNGs of a dataset back to ``out/<split>/<class>/<stem>.png``, byte for byte.

    Files that are there already with the same bytes are kept, so the same call goes on where an
    earlier one was stopped. A file with other bytes is never replaced.

    Args:
        place: the dataset's folder.
        out: where the tree goes.
        splits: only these; by default all.
        classes: only these.
        origins: only these of ``provenance.ORIGINS``; ``cifar10`` stands for both of CIFAR-10's.
        workers: processes; by default the cores that this process may use.
        progress: see ``workers.Progress``.

    Raises:
        OptionError: a split, class or origin that the dataset does not have.
        StoreError, FormatError: the dataset cannot be read, or is damaged; names the sample.
        OutputError: a file cannot be written, or is there with other bytes.
    """
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise OptionError(f"{workers} workers: expected at least 1")
    store = open_store(place)
    manifest = read_manifest(store)
    out = Path(out)
    workshop = out / _WORKSHOP
    jobs = list(_jobs(store, manifest, out, splits, classes, origins))
    total = sum(job.info.num_samples for job in jobs)
    done = 0

    def shard_done(result: _Done) -> None:
        nonlocal done
        done += result.num_samples
        progress("unpack", done, total)

    _check_folder(workshop)
    try:
        workshop.mkdir(parents=True, exist_ok=True)
        with make_executor(workers) as executor:
            progress("unpack", 0, total)
            results = run_jobs(executor, _unpack_shard, jobs, done=shard_done)
    except OSError as error:
        raise OutputError(f"{error.filename or out}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            for name in os.listdir(workshop):  # of workers that were killed
                os.unlink(workshop / name)
            workshop.rmdir()
            out.rmdir()  # where nothing was written
    if problems := [problem for result in results for problem in result.problems]:
        listed = "".join(f"\n  {problem}" for problem in problems[:_MAX_LISTED])
        more = len(problems) - _MAX_LISTED
        raise FormatError(
            f"{store}: {len(problems)} samples could not be unpacked{listed}"
            + (f"\n  and {more:,} more" if more > 0 else "")
        )
    return Unpacked(
        sum(result.num_written for result in results), sum(result.num_kept for result in results)
    )


_WORKSHOP = "_unpacking"
"""Below the output: files lie here until they are whole."""


def _jobs(
    store: LocalStore,
    manifest: Manifest,
    out: Path,
    splits: Sequence[str] | None,
    classes: Sequence[str] | None,
    origins: Sequence[str] | None,
) -> Iterator[_Job]:
    known_splits = [split.name for split in manifest.splits]
    if origins is not None:
        origins = [o for name in origins for o in _CIFAR10 if name == "cifar10"] + [
            name for name in origins if name != "cifar10"
        ]
    for kind, asked, known in (
        ("split", splits, known_splits),
        ("class", classes, manifest.classes),
        ("origin", origins, ORIGINS),
    ):
        if unknown := [name for name in asked or () if name not in known]:
            raise OptionError(f"{store}: no {kind} {unknown[0]!r}; there is {', '.join(known)}")
    for split in manifest.splits:
        if splits is None or split.name in splits:
            for info in split.shards:
                yield _Job(
                    store.root,
                    out,
                    split.name,
                    info,
                    len(manifest.classes),
                    None if classes is None else frozenset(classes),
                    None if origins is None else frozenset(origins),
                )


_CIFAR10 = ("cifar10-train", "cifar10-test")


def _unpack_shard(job: _Job) -> _Done:
    """Write the wanted samples of one shard. Runs in any process."""
    from cinic_shards.codec import Payloads, checksums

    memory, index = open_shard(LocalStore(job.root), job.info, job.num_classes)
    rows = _wanted(job, index)
    if len(rows) == 0:
        return _Done(len(index), 0, 0, ())
    payloads = Payloads.in_buffer(
        memory, index.offset[rows].astype(np.int64), index.length[rows].astype(np.int64)
    )
    intact = checksums(payloads) == index.crc32[rows]
    partial = job.out / _WORKSHOP / job.info.name
    folders: set[str] = set()
    num_written = num_kept = 0
    problems = []
    for position, row in enumerate(rows.tolist()):
        key = index.keys[row]
        place = f"{job.info.name}: sample {row} ({key})"
        if problem := fmt.key_problem(key, job.split):
            problems.append(f"{job.info.name}: sample {row} ({key!r}): {problem}")
            continue
        if not intact[position]:
            problems.append(f"{place}: its CRC-32 is not the index's; fetch the file again")
            continue
        data = payloads[position]
        if not data.startswith(_PNG_SIGNATURE):
            problems.append(f"{place}: not a PNG: it begins with {data[:16]!r}")
            continue
        folder = key.rpartition("/")[0]
        if folder not in folders:
            _make_folder(job.out, folder)
            folders.add(folder)
        path = f"{job.out}/{key}.png"
        try:
            with open(path, "rb", buffering=0) as file:
                same = file.read() == data
        except FileNotFoundError:
            with open(partial, "wb") as file:
                file.write(data)
            os.replace(partial, path)
            num_written += 1
            continue
        if same:
            num_kept += 1
        else:
            problems.append(f"{place}: {path} is there with other bytes; move it away")
    return _Done(len(index), num_written, num_kept, tuple(problems))


def _wanted(job: _Job, index: Index) -> NDArray[np.int64]:
    wanted = np.ones(len(index), np.bool_)
    if job.origins is not None:
        wanted &= np.isin(index.origin, [ORIGINS.index(name) for name in job.origins])
    if job.classes is not None:
        wanted &= np.array([key.split("/")[1:2] != [] and key.split("/")[1] in job.classes
                            for key in index.keys], np.bool_)  # fmt: skip
    return np.flatnonzero(wanted)


def _make_folder(out: Path, folder: str) -> None:
    """``out/<split>/<class>``, neither of them a link that leads elsewhere."""
    path = out
    for name in folder.split("/"):
        path = path / name
        path.mkdir(exist_ok=True)
        _check_folder(path)


def _check_folder(path: Path) -> None:
    if path.is_symlink():
        raise OutputError(f"{path}: a link, which may lead elsewhere; remove it")
