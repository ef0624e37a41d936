"""A tree of PNGs -> a dataset of shards."""

import hashlib
import itertools
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards import __version__
from cinic_shards.errors import OptionError, OutputError, TreeError
from cinic_shards.format import Manifest, PixelSums, SplitInfo
from cinic_shards.provenance import CINIC10_CITATION, CINIC10_LICENCE
from cinic_shards.shard_writer import PackedShard, ShardJob, write_shard
from cinic_shards.store import LocalStore, open_store
from cinic_shards.tree import Tree, scan_tree
from cinic_shards.workers import make_executor, usable_cores

SIDECARS = ("cls", "json")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and of how many (0: not known yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What determines the bytes of a packed dataset, beside the tree itself."""

    shard_size: int = 10 * fmt.BLOCK_SIZE
    """Samples a shard; the last of a split may have fewer."""
    seed: int = 0
    """Of the packing order."""
    sidecars: tuple[str, ...] = ("cls",)
    """Members beside each PNG: ``cls`` (the label), ``json`` (label and provenance), or none."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise OptionError(f"shard size {self.shard_size}: expected at least 1 sample")
        if not 0 <= self.seed <= fmt.MAX_INTEGER:
            raise OptionError(f"seed {self.seed}: expected a number from 0 to 2**53 - 1")
        if unknown := set(self.sidecars) - set(SIDECARS):
            raise OptionError(
                f"sidecars {', '.join(sorted(unknown))}: expected any of {', '.join(SIDECARS)}"
            )
        # In one order, so that the order in which they are asked for does not change the bytes.
        in_order = tuple(name for name in SIDECARS if name in self.sidecars)
        object.__setattr__(self, "sidecars", in_order)


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
        options: see ``PackOptions``.
        workers: processes; by default the cores that this process may use. With more than one,
            call from under ``if __name__ == "__main__":``, as for any spawned process.
        overwrite: replace the dataset that ``out`` holds (the files that its manifest names).
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
    if Path(os.path.realpath(store.root)).is_relative_to(os.path.realpath(root)):
        raise OptionError(f"{out}: lies inside the tree {root}; write the shards elsewhere")
    old_files = _old_files(store, overwrite)
    try:
        with make_executor(workers) as executor:
            tree = scan_tree(root, executor=executor, progress=_scan_progress(progress))
            for warning in tree.warnings:
                warn(warning)
            return _pack_tree(tree, store, old_files, options, executor, progress, warn)
    except BrokenExecutor as error:
        raise OutputError(
            f"{out}: nothing was packed, a worker process died: it was killed, or memory ran out "
            "(try fewer workers), or the program that calls pack() does so outside "
            "'if __name__ == \"__main__\":'"
        ) from error


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
    if fmt.PACKING_FOLDER in names:
        raise OutputError(
            f"{store}: packing did not finish there; remove {store.root / fmt.PACKING_FOLDER} and, "
            f"where there is no {fmt.MANIFEST_NAME}, the shards beside it, and run again"
        )
    if fmt.MANIFEST_NAME not in names:
        raise OutputError(
            f"{store}: holds {names[0]} and {len(names) - 1} more, but no dataset; "
            "give an empty folder, or remove them"
        )
    if not overwrite:
        raise OutputError(f"{store}: holds a dataset already; --overwrite replaces it")
    manifest = Manifest.from_bytes(
        store.read(fmt.MANIFEST_NAME), place=f"{store}/{fmt.MANIFEST_NAME}"
    )
    old = [shard.name for split in manifest.splits for shard in split.shards]
    if others := sorted(set(names) - set(old) - {fmt.MANIFEST_NAME}):
        raise OutputError(
            f"{store}: holds {others[0]}, which its manifest does not name; "
            "give an empty folder, or remove it"
        )
    for name in old:
        if (store.root / name).is_dir():
            raise OutputError(f"{store}: {name} is a folder, expected a shard; remove it")
    return [fmt.MANIFEST_NAME, *old]


def _pack_tree(
    tree: Tree,
    store: LocalStore,
    old_files: list[str],
    options: PackOptions,
    executor: Executor,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Make all files in a folder inside the output, then move them to their places.

    So an older dataset stays until the new one is whole; the manifest comes last.
    """
    made_folders = [one for one in (store.root, *store.root.parents) if not os.path.lexists(one)]
    workshop = LocalStore(store.root / fmt.PACKING_FOLDER)
    moved = []
    try:
        workshop.root.mkdir(parents=True)
        _check_space(tree, store, options)
        jobs = (
            job for split in tree.splits for job in _shard_jobs(tree, split, workshop.root, options)
        )
        shards = _run_jobs(jobs, executor, progress, total=len(tree))
        if problems := [problem for shard in shards for problem in shard.problems]:
            raise TreeError(str(tree.root), sorted(problems))
        manifest = _make_manifest(tree, shards, options)
        if unknown := sum(shard.info.origins.get("unknown", 0) for shard in shards):
            warn(f"{unknown:,} images have names that tell no CINIC-10 origin; kept as 'unknown'")
        with workshop.create(fmt.MANIFEST_NAME) as file:
            file.write(manifest.to_bytes())
        for name in old_files:
            store.delete(name)
        for name in [*(shard.info.name for shard in shards), fmt.MANIFEST_NAME]:
            moved.append(name)
            os.replace(workshop.root / name, store.root / name)
        workshop.root.rmdir()
    except BaseException as error:
        # Every job has ended by now, so nothing writes behind our back.
        for name in reversed(moved):
            with suppress(OSError):
                store.delete(name)
        shutil.rmtree(workshop.root, ignore_errors=True)
        for folder in made_folders:
            with suppress(OSError):  # others may have put something there
                folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{store}: {error.strerror}") from error
        raise
    return manifest


def _shard_jobs(tree: Tree, split: str, out: Path, options: PackOptions) -> Iterator[ShardJob]:
    records = tree.splits[split]
    order = packing_order(records.keys, options.seed)
    num_shards = -(-len(order) // options.shard_size)
    for shard_index in range(num_shards):
        start = shard_index * options.shard_size
        yield ShardJob(
            tree.root,
            out,
            split,
            fmt.shard_name(split, shard_index, num_shards),
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
        int((-(-records.sizes // fmt.TAR_BLOCK)).sum()) + len(records)
        for records in tree.splits.values()
    )
    needed = (blocks + 2 * len(options.sidecars) * len(tree)) * fmt.TAR_BLOCK + 128 * len(tree)
    free = store.free_bytes()
    if free < needed:
        raise OutputError(
            f"{store}: {free / 1e6:,.1f} MB free, the shards need about {needed / 1e6:,.1f} MB; "
            "free some space or write elsewhere"
        )


def _run_jobs(
    jobs: Iterable[ShardJob], executor: Executor, progress: Progress, *, total: int
) -> list[PackedShard]:
    """Run every job, in order. When one fails, the others are ended before it is raised."""
    try:
        # Workers begin with the first jobs while the next ones are made.
        futures = [executor.submit(write_shard, job) for job in jobs]
        done = 0
        progress("pack", done, total)
        for future in as_completed(futures):
            done += future.result().info.num_samples
            progress("pack", done, total)
        return [future.result() for future in futures]
    except BaseException:
        executor.shutdown(wait=True, cancel_futures=True)
        raise


def _make_manifest(tree: Tree, shards: list[PackedShard], options: PackOptions) -> Manifest:
    fingerprint = hashlib.blake2b(digest_size=32)
    splits = []
    first_id = 0
    for split, group in itertools.groupby(shards, key=lambda shard: shard.split):
        sizes: Counter[tuple[int, int]] = Counter()
        pixels = PixelSums(0, (0, 0, 0), (0, 0, 0))
        infos = []
        for shard in group:
            fingerprint.update(shard.fingerprint_input)
            sizes.update(shard.image_sizes)
            pixels += shard.pixels
            infos.append(shard.info)
        num_samples = len(tree.splits[split])
        splits.append(SplitInfo(split, first_id, num_samples, dict(sizes), pixels, tuple(infos)))
        first_id += num_samples
    is_cinic10 = not any("unknown" in shard.info.origins for shard in shards)
    return Manifest(
        encoding="png",
        block_size=fmt.BLOCK_SIZE,
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
