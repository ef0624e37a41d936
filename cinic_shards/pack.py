"""A tree of PNGs -> a dataset of shards."""

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deflate
import numpy as np
import PIL
from numpy.typing import NDArray

from cinic_shards import __version__, format, kernels
from cinic_shards.codec import Payloads, decode_png
from cinic_shards.errors import DecodeError, OptionError, OutputError, TreeError
from cinic_shards.format import Index, Manifest, PixelSums, ShardInfo, SplitInfo
from cinic_shards.provenance import (
    CINIC10_CITATION,
    CINIC10_LICENCE,
    ORIGINS,
    Provenance,
    parse_stem,
)
from cinic_shards.store import LocalStore, open_store
from cinic_shards.tree import Records, Tree, scan_tree
from cinic_shards.workers import make_executor, usable_cores

SIDECARS = ("cls", "json")

# A chunk of samples is read, decoded and written at once: at most so many, and so many pixels.
_CHUNK_SAMPLES = 1024
_CHUNK_PIXELS = 2**23

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and of how many (0: not known yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What determines the bytes of a packed dataset, beside the tree itself."""

    shard_size: int = 10 * format.BLOCK_SIZE
    """Samples a shard; the last of a split may have fewer."""
    seed: int = 0
    """Of the packing order."""
    sidecars: tuple[str, ...] = ("cls",)
    """Members beside each PNG: ``cls`` (the label), ``json`` (label and provenance), or none."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise OptionError(f"shard size {self.shard_size}: expected at least 1 sample")
        if not 0 <= self.seed < 2**64:
            raise OptionError(f"seed {self.seed}: expected a number from 0 to 2**64 - 1")
        if unknown := set(self.sidecars) - set(SIDECARS):
            raise OptionError(
                f"sidecars {', '.join(sorted(unknown))}: expected any of {', '.join(SIDECARS)}"
            )


@dataclass(frozen=True, slots=True)
class _ShardJob:
    """All that one shard is made from. Its bytes do not depend on where or when it is made."""

    root: Path
    out: Path
    name: str
    records: Records
    classes: tuple[str, ...]
    sidecars: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _PackedShard:
    info: ShardInfo
    fingerprint_input: bytes
    image_sizes: dict[tuple[int, int], int]
    pixels: PixelSums
    problems: tuple[str, ...]


def pack(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: PackOptions | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Manifest:
    """Pack the PNG tree at ``root`` into shards and a manifest in ``out``.

    The same tree and options give the same bytes, whatever ``workers`` is.

    Args:
        root: a folder with ``<split>/<class>/*.png``.
        out: a folder that is empty or does not exist.
        workers: processes; by default the cores that this process may use. With more than one,
            call from under ``if __name__ == "__main__":``, as for any spawned process.
        overwrite: delete the dataset that ``out`` holds (the files that its manifest names).
        progress: see ``Progress``.
        warn: called with each thing that a user should know and packing can live with.

    Returns:
        The manifest, as written.

    Raises:
        OptionError: an option cannot be.
        TreeError: the tree cannot be packed; lists every problem. Nothing is left in ``out``.
        OutputError: ``out`` cannot be written, or holds other files.
    """
    options = options or PackOptions()
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise OptionError(f"{workers} workers: expected at least 1")
    root, store = Path(root), open_store(out)
    if store.root.resolve().is_relative_to(root.resolve()):
        raise OptionError(f"{out}: lies inside the tree {root}; write the shards elsewhere")
    old_files = _old_files(store, overwrite)
    with make_executor(workers) as executor:
        tree = scan_tree(root, executor=executor, progress=_scan_progress(progress))
        for warning in tree.warnings:
            warn(warning)
        for name in old_files:
            store.delete(name)
        return _pack_tree(tree, store, options, executor, progress, warn)


def _scan_progress(progress: Progress) -> Callable[[int], None]:
    scanned = 0

    def folder_done(num_images: int) -> None:
        nonlocal scanned
        scanned += num_images
        progress("scan", scanned, 0)

    return folder_done


def _old_files(store: LocalStore, overwrite: bool) -> list[str]:
    """The files to delete from the output, its manifest first; refuse any other file."""
    names = store.names()
    if not names:
        return []
    if format.MANIFEST_NAME not in names:
        raise OutputError(
            f"{store}: holds {names[0]} and {len(names) - 1} more, but no dataset; "
            "give an empty folder, or remove them"
        )
    if not overwrite:
        raise OutputError(f"{store}: holds a dataset already; --overwrite replaces it")
    manifest = Manifest.from_bytes(
        store.read(format.MANIFEST_NAME), place=f"{store}/{format.MANIFEST_NAME}"
    )
    old = [shard.name for split in manifest.splits for shard in split.shards]
    if others := sorted(set(names) - set(old) - {format.MANIFEST_NAME}):
        raise OutputError(
            f"{store}: holds {others[0]}, which its manifest does not name; "
            "give an empty folder, or remove it"
        )
    return [format.MANIFEST_NAME, *old]


def _pack_tree(
    tree: Tree,
    store: LocalStore,
    options: PackOptions,
    executor: Executor,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    made_folder = not store.root.exists()
    jobs_by_split = {
        split: list(_shard_jobs(tree, split, store.root, options)) for split in tree.splits
    }
    names = [job.name for jobs in jobs_by_split.values() for job in jobs]
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        _check_space(tree, store, options)
        shards = _run_jobs(jobs_by_split, executor, progress)
        if problems := [problem for shard in shards.values() for problem in shard.problems]:
            raise TreeError(str(tree.root), sorted(problems))
        manifest = _make_manifest(tree, jobs_by_split, shards, options)
        if unknown := sum(
            shard.info.origins.get("unknown", 0) for shard in shards.values()
        ):
            warn(f"{unknown:,} images have names that tell no CINIC-10 origin; kept as 'unknown'")
        with store.create(format.MANIFEST_NAME) as file:
            file.write(manifest.to_bytes())
    except BaseException as error:
        # Every job has ended by now, so nothing writes behind our back.
        for name in [format.MANIFEST_NAME, *names]:
            store.delete(name)
        if made_folder and store.root.exists():
            store.root.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{store}: {error.strerror}") from error
        raise
    return manifest


def _shard_jobs(tree: Tree, split: str, out: Path, options: PackOptions) -> Iterator[_ShardJob]:
    records = tree.splits[split]
    order = packing_order(records.keys, options.seed)
    num_shards = -(-len(order) // options.shard_size)
    for shard_index in range(num_shards):
        start = shard_index * options.shard_size
        yield _ShardJob(
            tree.root,
            out,
            format.shard_name(split, shard_index, num_shards),
            records.take(order[start : start + options.shard_size]),
            tree.classes,
            options.sidecars,
        )


def packing_order(keys: list[str], seed: int) -> NDArray[np.int64]:
    """Rows sorted by BLAKE2b-128 of their keys, the seed (8 bytes, little-endian) as its key."""
    keyed = hashlib.blake2b(key=seed.to_bytes(8, "little"), digest_size=16)
    digests = []
    for key in keys:
        state = keyed.copy()
        state.update(key.encode())
        digests.append(state.digest())
    halves = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0]))


def _check_space(tree: Tree, store: LocalStore, options: PackOptions) -> None:
    """Refuse before writing where the shards cannot fit."""
    blocks = sum(
        int((-(-records.sizes // format.TAR_BLOCK)).sum()) + len(records)
        for records in tree.splits.values()
    )
    needed = (blocks + 2 * len(options.sidecars) * len(tree)) * format.TAR_BLOCK + 64 * len(tree)
    free = store.free_bytes()
    if free < needed:
        raise OutputError(
            f"{store}: {free / 1e6:,.0f} MB free, the shards need about {needed / 1e6:,.0f} MB; "
            "free some space or write elsewhere"
        )


def _run_jobs(
    jobs_by_split: dict[str, list[_ShardJob]], executor: Executor, progress: Progress
) -> dict[str, _PackedShard]:
    """Run every job; by shard name. When one fails, the others are ended before it is raised."""
    jobs = [job for jobs in jobs_by_split.values() for job in jobs]
    total = sum(len(job.records) for job in jobs)
    futures = {executor.submit(_write_shard, job): job for job in jobs}
    shards = {}
    done = 0
    progress("pack", 0, total)
    try:
        for future in as_completed(futures):
            job = futures[future]
            shards[job.name] = future.result()
            done += len(job.records)
            progress("pack", done, total)
    except BaseException:
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    return shards


def _make_manifest(
    tree: Tree,
    jobs_by_split: dict[str, list[_ShardJob]],
    shards: dict[str, _PackedShard],
    options: PackOptions,
) -> Manifest:
    fingerprint = hashlib.blake2b(digest_size=32)
    splits = []
    first_id = 0
    for split, jobs in jobs_by_split.items():
        packed = [shards[job.name] for job in jobs]
        sizes: Counter[tuple[int, int]] = Counter()
        pixels = PixelSums(0, (0, 0, 0), (0, 0, 0))
        for shard in packed:
            fingerprint.update(shard.fingerprint_input)
            sizes.update(shard.image_sizes)
            pixels += shard.pixels
        infos = tuple(shard.info for shard in packed)
        num_samples = len(tree.splits[split])
        splits.append(SplitInfo(split, first_id, num_samples, dict(sizes), pixels, infos))
        first_id += num_samples
    is_cinic10 = not any("unknown" in shard.info.origins for shard in shards.values())
    return Manifest(
        encoding="png",
        block_size=format.BLOCK_SIZE,
        classes=tree.classes,
        splits=tuple(splits),
        fingerprint=f"blake2b:{fingerprint.hexdigest()}",
        options={
            "seed": options.seed,
            "shard_size": options.shard_size,
            "sidecars": list(options.sidecars),
        },
        libraries={
            "cinic-shards": __version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        licence=CINIC10_LICENCE if is_cinic10 else "",
        citation=CINIC10_CITATION if is_cinic10 else "",
    )


# --- One shard, in any process ---------------------------------------------------------------


def _write_shard(job: _ShardJob) -> _PackedShard:
    """Write one shard. A problem with an image is told in the result, for all to be told at once."""
    records = job.records
    num_samples = len(records)
    origins = [parse_stem(key.rpartition("/")[2]) for key in records.keys]
    digest = hashlib.sha256()
    size = 0
    offsets, checksums, hashes = [], [], []
    sums, square_sums = np.zeros(3, np.int64), np.zeros(3, np.int64)
    problems: list[str] = []
    with LocalStore(job.out).create(job.name) as file:

        def write(data: Any) -> None:
            nonlocal size
            view = memoryview(data)
            digest.update(view)
            size += len(view)
            while len(view):  # an unbuffered file may take only a part
                view = view[file.write(view) :]

        for start, stop in _chunks(records):
            rows = np.arange(start, stop)
            buffer, starts = _read_chunk(job, records.take(rows), origins[start:stop], problems)
            payloads = Payloads.in_buffer(buffer, starts, records.sizes[start:stop])
            hashes.append(np.zeros((stop - start, format.PIXEL_HASH_BYTES), np.uint8))
            for group, images in _decode_by_size(records.take(rows), payloads, problems):
                hashes[-1][group] = format.pixel_hashes(images)
                kernels.add_channel_sums(images.reshape(-1, 3), sums, square_sums)
            view = memoryview(buffer)
            checksums += [
                deflate.crc32(view[at : at + length])
                for at, length in zip(starts.tolist(), payloads.lengths.tolist(), strict=True)
            ]
            offsets.append(size + starts)
            write(buffer)

        index = Index(
            keys=records.keys,
            label=records.labels,
            origin=np.array([ORIGINS.index(p.origin) for p in origins], np.uint8),
            synset=np.array([int(p.synset[1:] or 0) for p in origins], np.uint32),
            number=np.array([p.number for p in origins], np.int64),
            pixel_hash=np.concatenate(hashes),
            offset=np.concatenate(offsets).astype(np.uint64),
            length=records.sizes.astype(np.uint64),
            crc32=np.array(checksums, np.uint32),
            first_row=np.arange(num_samples, dtype=np.uint64),
        )
        index_bytes = index.to_bytes()
        index_offset = size + format.TAR_BLOCK
        write(format.one_member(format.INDEX_NAME, index_bytes))
        write(format.TAR_END)

    labels = Counter(records.labels.tolist())
    info = ShardInfo(
        name=job.name,
        size=size,
        sha256=digest.hexdigest(),
        index_offset=index_offset,
        index_length=len(index_bytes),
        index_sha256=hashlib.sha256(index_bytes).hexdigest(),
        num_samples=num_samples,
        classes={job.classes[label]: count for label, count in sorted(labels.items())},
        origins=dict(sorted(Counter(p.origin for p in origins).items())),
    )
    image_sizes = Counter(zip(records.heights.tolist(), records.widths.tolist(), strict=True))
    num_pixels = int((records.heights * records.widths).sum())
    pixels = PixelSums(num_pixels, tuple(sums.tolist()), tuple(square_sums.tolist()))
    return _PackedShard(
        info, index.fingerprint_input(), dict(image_sizes), pixels, tuple(problems)
    )


def _chunks(records: Records) -> Iterator[tuple[int, int]]:
    """Ranges of rows that bound the memory of a worker."""
    start, pixels = 0, 0
    for row, area in enumerate((records.heights * records.widths).tolist()):
        if row > start and (row - start == _CHUNK_SAMPLES or pixels + area > _CHUNK_PIXELS):
            yield start, row
            start, pixels = row, 0
        pixels += area
    if len(records):
        yield start, len(records)


def _read_chunk(
    job: _ShardJob, records: Records, origins: list[Provenance], problems: list[str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read files straight to their places among the tar members of a chunk.

    Returns:
        The members' bytes, and where in them each PNG begins.
    """
    keys = records.keys
    labels = records.labels.tolist()
    names = [[key.encode() + b".png" for key in keys]]
    sizes = [records.sizes]
    contents: list[list[bytes]] = []
    for sidecar in job.sidecars:
        if sidecar == "cls":
            contents.append([str(label).encode() for label in labels])
        else:
            contents.append([
                format.sidecar_json(key, job.classes[label], label, provenance)
                for key, label, provenance in zip(keys, labels, origins, strict=True)
            ])  # fmt: skip
        names.append([key.encode() + b"." + sidecar.encode() for key in keys])
        sizes.append(np.array([len(content) for content in contents[-1]], np.int64))

    # Members lie sample by sample: the PNG, then its sidecars.
    member_names = [name for sample in zip(*names, strict=True) for name in sample]
    buffer, starts = format.lay_out_members(member_names, np.stack(sizes, axis=1).ravel())
    starts = starts.reshape(len(records), -1)
    view = memoryview(buffer)
    for column, sidecar_contents in enumerate(contents, 1):
        for at, content in zip(starts[:, column].tolist(), sidecar_contents, strict=True):
            view[at : at + len(content)] = content
    for path, at, size, modified in zip(
        records.files,
        starts[:, 0].tolist(),
        records.sizes.tolist(),
        records.modified.tolist(),
        strict=True,
    ):
        if problem := _read_file(f"{job.root}/{path}", view[at : at + size], modified):
            problems.append(f"{path}: {problem}")
    return buffer, np.ascontiguousarray(starts[:, 0])


def _read_file(path: str, into: memoryview, modified: int) -> str:
    """Fill ``into`` with a file; say what is wrong where it is not the file that was scanned."""
    try:
        with io.FileIO(path) as file:
            state = os.fstat(file.fileno())
            if state.st_size == len(into) and state.st_mtime_ns == modified:
                if file.readinto(into) == len(into):
                    return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "changed while it was packed; leave the tree alone and run again"


def _decode_by_size(
    records: Records, payloads: Payloads, problems: list[str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Decode a chunk, the images of each size together: their rows and uint8 (n, H, W, 3)."""
    extents, group_of = np.unique(
        np.stack([records.heights, records.widths], axis=1), axis=0, return_inverse=True
    )
    for group, (height, width) in enumerate(extents.tolist()):
        rows = np.flatnonzero(group_of.ravel() == group)
        while len(rows):
            chosen = Payloads(payloads.addresses[rows], payloads.lengths[rows], payloads)
            images = np.empty((len(rows), height, width, 3), np.uint8)
            try:
                decode_png(chosen, images)
                yield rows, images
                break
            except DecodeError as error:
                path = records.files[rows[error.position]]
                if not any(problem.startswith(f"{path}: ") for problem in problems):
                    problems.append(f"{path}: {error.reason}")
                rows = np.delete(rows, error.position)
