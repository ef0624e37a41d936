"""The proof that a dataset is whole: every byte of it checked, every fault named."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cinic_shards.format as fmt
from cinic_shards.check.faults import Fault
from cinic_shards.check.shard import CheckedShard, CheckJob, check_shard
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, OptionError
from cinic_shards.format import Manifest, ShardInfo, SplitInfo
from cinic_shards.jobs import Progress, make_executor, run_jobs
from cinic_shards.options import number_of_workers
from cinic_shards.read.open import is_packing, read_manifest
from cinic_shards.store import Place, Store, open_store
from cinic_shards.tree import Source, find_source
from cinic_shards.tree.records import Tree
from cinic_shards.write.facts import make_manifest


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found."""

    num_shards: int
    num_samples: int
    faults: tuple[Fault, ...]
    num_more_faults: int
    """Beyond those listed: of one shard, 1,000 are."""
    strays: tuple[str, ...]
    """Files beside the dataset that it does not name; no fault."""

    @property
    def is_whole(self) -> bool:
        return not self.faults


def verify(
    place: Place,
    *,
    quick: bool = False,
    against: str | os.PathLike[str] | Source | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Verification:
    """Check a dataset: digests, tar structure, index, every payload, every image, every count.

    Args:
        place: where the dataset lies; see ``store.Place``.
        quick: sizes, SHA-256 and indexes alone; no image is decoded.
        against: a tree to compare with, or an archive of one: the same images, byte for byte; of
            blocks, the same pixels.
        workers: processes; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Raises:
        StoreError: there is no dataset at ``place``.
        OptionError: an option cannot be.
        TreeError: ``against`` is no tree of PNGs.
    """
    workers = number_of_workers(workers)
    if quick and against is not None:
        raise OptionError("quick compares no images: leave it out to compare with a tree")
    store = open_store(place)
    try:
        manifest = read_manifest(store)
    except FormatError as error:
        fault = Fault(fmt.MANIFEST_NAME, f"{error.reason}; or let cinic-shard reindex make it anew")
        return Verification(0, 0, (fault,), 0, ())

    done = 0

    def shard_done(checked: CheckedShard) -> None:
        nonlocal done
        done += checked.facts.info.num_samples if checked.facts else 0
        progress("verify", done, manifest.num_samples)

    with make_executor(workers) as executor, ExitStack() as stack:
        tree = None if against is None else stack.enter_context(_open(against, executor))
        root = None if tree is None else tree.root.resolve()
        jobs = list(_jobs(store, manifest, quick, tree))
        progress("verify", 0, manifest.num_samples)
        checked = run_jobs(executor, check_shard, jobs, done=shard_done)
    faults = [fault for shard in checked for fault in shard.faults]
    if not faults and not quick:
        faults += _compare(manifest, checked)
    if tree is not None:
        packed = {key for shard in checked for key in shard.keys}
        faults += [
            Fault("", f"{root}/{file} is not in the dataset")
            for records in tree.splits.values()
            for file, key in zip(records.files, records.keys, strict=True)
            if key not in packed
        ]
    named = {job.name for job in jobs} | {fmt.MANIFEST_NAME}
    return Verification(
        len(jobs),
        manifest.num_samples,
        tuple(faults),
        sum(shard.num_more_faults for shard in checked),
        _strays(store, named),
    )


def _strays(store: Store, named: set[str]) -> tuple[str, ...]:
    """What lies beside the dataset, as far as that can be told."""
    if not store.can_list:
        return ()
    names = store.names()
    if not is_packing(store, names):
        named = named | {fmt.PACKING_FOLDER}
    return tuple(name for name in names if name not in named)


def _open(
    against: str | os.PathLike[str] | Source, executor: Executor
) -> AbstractContextManager[Tree]:
    return find_source(against).open(
        executor=executor,
        spool_folder=Path(tempfile.gettempdir()),
        progress=lambda num_images: None,
    )


def _jobs(store: Store, manifest: Manifest, quick: bool, tree: Tree | None) -> Iterator[CheckJob]:
    seed = _seed(manifest)
    for split in manifest.splits:
        files = None if tree is None else tree.image_files(split.name)
        for shard in split.shards:
            yield CheckJob(store, split.name, shard.name, shard, seed, quick, files)


def _seed(manifest: Manifest) -> int | None:
    """The seed of the packing order, where it is stated."""
    seed = manifest.options.get("seed")
    return seed if type(seed) is int and 0 <= seed <= fmt.MAX_INTEGER else None


def _compare(manifest: Manifest, checked: Sequence[CheckedShard]) -> Iterator[Fault]:
    """What the manifest says that its shards, each whole, do not."""

    def fault(problem: str) -> Fault:
        return Fault(fmt.MANIFEST_NAME, problem)

    facts = [shard.facts for shard in checked if shard.facts is not None]
    stated = {shard.classes for shard in checked}
    classes = stated.pop() if stated else None
    if classes is None:
        class_of_label: dict[int, str] = {}
        for shard in checked:
            class_of_label |= shard.class_of_label or {}
        classes = tuple(name for _, name in sorted(class_of_label.items()))
    if stated:
        yield fault("some of its shards state other classes than others")
    if classes != manifest.classes:
        stated_classes, found_classes = fmt.shown(manifest.classes), fmt.shown(classes)
        yield fault(f"its classes are {stated_classes}, its shards' are {found_classes}")
    if classes != tuple(sorted(classes, key=str.encode)):
        yield fault(f"its classes are {fmt.shown(classes)}, expected them sorted")
    if "seed" in manifest.options and _seed(manifest) is None:
        yield fault(f"its seed is {fmt.shown(manifest.options['seed'])}, expected a number")
    sidecars = {shard.sidecars for shard in checked}
    stated_sidecars = manifest.options.get("sidecars", [])
    if [list(names) for names in sidecars] != [stated_sidecars]:
        says = fmt.shown(stated_sidecars)
        yield fault(f"its sidecars are {says}, its shards' are {sorted(sidecars)}")
    for before, after in itertools.pairwise(checked):
        if (
            before.order
            and after.order
            and before.facts
            and after.facts
            and before.facts.split == after.facts.split
            and before.order[1] >= after.order[0]
        ):
            yield Fault(after.facts.info.name, f"belongs before {before.facts.info.name}")
    kinds = {(shard.encoding, shard.block_size) for shard in checked}
    if len(kinds) > 1:
        yield fault(f"its shards have several encodings or block sizes: {sorted(kinds)}")
        return
    encoding, block_size = kinds.pop() if kinds else (manifest.encoding, manifest.block_size)
    rebuilt = make_manifest(
        facts,
        manifest.classes,
        manifest.options,
        encoding=ENCODINGS[encoding],
        block_size=block_size,
    )
    for name in ("encoding", "block_size", "fingerprint"):
        yield from _differences(fault, "its", manifest, rebuilt, [name])
    names = [split.name for split in manifest.splits]
    if names != sorted(set(names)):
        yield fault(f"its splits are {names}, expected names in order, each once")
        return
    for split, other in zip(manifest.splits, rebuilt.splits, strict=True):
        place = f"split {split.name}'s"
        yield from _differences(fault, place, split, other, _names(SplitInfo, "shards"))
        for one, two in zip(split.shards, other.shards, strict=True):
            yield from _differences(fault, f"{one.name}'s", one, two, _names(ShardInfo))


def _names(kind: type, *without: str) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in without]


def _differences(
    fault: Callable[[str], Fault], place: str, stated: Any, found: Any, names: Sequence[str]
) -> Iterator[Fault]:
    for name in names:
        says, is_ = getattr(stated, name), getattr(found, name)
        if says != is_:
            yield fault(f"{place} {name} is {fmt.shown(says)}, its shards give {fmt.shown(is_)}")
