"""A tree of PNGs -> a dataset of shards."""

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.errors import OptionError, OutputError, TreeError
from cinic_shards.facts import ShardFacts, make_manifest, packing_digests
from cinic_shards.format import Manifest
from cinic_shards.journal import FinishedShard, Journal, reopen_shard
from cinic_shards.listing import changes, folders_changed, list_tree
from cinic_shards.shard_writer import PackedShard, ShardJob, write_shard
from cinic_shards.store import LocalStore, open_store
from cinic_shards.tree import Tree, scan_tree
from cinic_shards.workers import Progress, make_executor, run_jobs, usable_cores

SIDECARS = ("cls", "json")


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

    def as_json(self) -> dict[str, Any]:
        """As manifest and journal state them."""
        return {
            "seed": self.seed,
            "shard_size": self.shard_size,
            "sidecars": list(self.sidecars),
        }


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
        progress: see ``workers.Progress``.
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
    store.names()  # an output that cannot be, before the tree is read
    if not (store.root / fmt.PACKING_FOLDER).exists():
        _old_files(store, overwrite)
    try:
        with make_executor(workers) as executor:
            tree = scan_tree(root, executor=executor, progress=_scan_progress(progress))
            for warning in tree.warnings:
                warn(warning)
            return _pack_tree(tree, store, overwrite, options, executor, progress, warn)
    except BrokenExecutor as error:
        raise OutputError(
            f"{out}: packing did not finish, a worker process died: it was killed (run the same "
            "command again: it goes on with what was finished), or memory ran out (try fewer "
            "workers), or the program that calls pack() does so outside "
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
    """The files of the dataset that is to be replaced; refuse any other file."""
    names = [name for name in store.names() if name != fmt.PACKING_FOLDER]
    if not names:
        return []
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
    return old


def _pack_tree(
    tree: Tree,
    store: LocalStore,
    overwrite: bool,
    options: PackOptions,
    executor: Executor,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Make all files in a folder inside the output, then move them to their places.

    So an older dataset stays until the new one is whole; the manifest comes last. A journal in that
    folder lets the same command go on where this process is killed.
    """
    made_folders = [one for one in (store.root, *store.root.parents) if not os.path.lexists(one)]
    try:
        with Journal(store.root) as journal:
            is_anothers = journal.start is not None
            try:
                if journal.old_files is None:
                    old_files = _old_files(store, overwrite)
                else:  # an earlier process has begun to move files
                    old_files = journal.old_files
                journal.begin(tree, options.as_json())
                is_anothers = False
                manifest = _make_files(tree, store, journal, options, executor, progress, warn)
                _move_files(store, journal, manifest, old_files)
            except BaseException as error:
                # Every job has ended by now, so nothing writes behind our back.
                is_moving = journal.old_files is not None
                if not (is_anothers or is_moving or isinstance(error, BrokenExecutor)):
                    journal.remove()
                raise
            journal.remove()
    except BaseException as error:
        for folder in made_folders:
            with suppress(OSError):  # others may have put something there
                folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{store}: {error.strerror}") from error
        raise
    return manifest


def _make_files(
    tree: Tree,
    store: LocalStore,
    journal: Journal,
    options: PackOptions,
    executor: Executor,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Make every shard and the manifest in the journal's folder."""
    finished = _reopen(store, journal, executor)
    done = sum(facts.info.num_samples for facts in finished.values())
    _check_space(tree, store, options, done)
    jobs = (
        job
        for split in tree.splits
        for job in _shard_jobs(tree, split, journal.folder, options)
        if job.name not in finished
    )
    progress("pack", done, len(tree))

    def shard_done(shard: PackedShard) -> None:
        nonlocal done
        if not shard.problems:
            journal.shard_done(shard.facts)
        done += shard.facts.info.num_samples
        progress("pack", done, len(tree))

    made = run_jobs(executor, write_shard, jobs, done=shard_done)
    problems = [problem for shard in made for problem in shard.problems]
    if not problems and folders_changed(tree):
        problems = list(changes(list_tree(tree), list_tree(scan_tree(tree.root))))
    if problems:
        raise TreeError(str(tree.root), sorted(problems))
    by_name = finished | {shard.facts.info.name: shard.facts for shard in made}
    shards = [
        by_name[fmt.shard_name(split, shard_index, num_shards)]
        for split, records in tree.splits.items()
        for num_shards in [-(-len(records) // options.shard_size)]
        for shard_index in range(num_shards)
    ]
    manifest = make_manifest(shards, tree.classes, options.as_json())
    if unknown := sum(shard.info.origins.get("unknown", 0) for shard in shards):
        warn(f"{unknown:,} images have names that tell no CINIC-10 origin; kept as 'unknown'")
    with LocalStore(journal.folder).create(fmt.MANIFEST_NAME) as file:
        file.write(manifest.to_bytes())
    return manifest


def _reopen(store: LocalStore, journal: Journal, executor: Executor) -> dict[str, ShardFacts]:
    """The shards that an earlier process finished, and that still have the bytes it noted."""
    moved = () if journal.old_files is None else (store.root,)
    jobs = [FinishedShard((journal.folder, *moved), noted) for noted in journal.shards]
    found = run_jobs(executor, reopen_shard, jobs)
    return {facts.info.name: facts for facts in found if facts is not None}


def _move_files(
    store: LocalStore, journal: Journal, manifest: Manifest, old_files: list[str]
) -> None:
    """Put the new dataset in the place of the old one. Where it is stopped, it can begin again."""
    names = [shard.name for split in manifest.splits for shard in split.shards]
    journal.moving(old_files)
    for name in [fmt.MANIFEST_NAME, *(name for name in old_files if name not in names)]:
        store.delete(name)
    for name in [*names, fmt.MANIFEST_NAME]:
        with suppress(FileNotFoundError):  # it was moved before
            os.replace(journal.folder / name, store.root / name)


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
            options.sidecars,
        )


def packing_order(keys: list[str], seed: int) -> NDArray[np.int64]:
    """Rows sorted by their ``packing_digests``."""
    digests = packing_digests(keys, seed)
    halves = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0]))


def _check_space(tree: Tree, store: LocalStore, options: PackOptions, num_done: int) -> None:
    """Refuse before writing where the shards that are not done yet cannot fit."""
    blocks = sum(
        int((-(-records.sizes // fmt.TAR_BLOCK)).sum()) + len(records)
        for records in tree.splits.values()
    )
    needed = (blocks + 2 * len(options.sidecars) * len(tree)) * fmt.TAR_BLOCK + 128 * len(tree)
    needed = needed * (len(tree) - num_done) // len(tree)
    free = store.free_bytes()
    if free < needed:
        raise OutputError(
            f"{store}: {free / 1e6:,.1f} MB free, the shards need about {needed / 1e6:,.1f} MB; "
            "free some space or write elsewhere"
        )
