"""Verify a dataset: check every byte, and list every fault."""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from typing import Any

import cinic_shards.format as fmt
from cinic_shards.check.against import open_tree, unpacked_files
from cinic_shards.check.faults import Fault, Location
from cinic_shards.check.shard import CheckedShard, CheckJob, check_shard
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, OptionError
from cinic_shards.format import Manifest, ShardInfo, SplitInfo
from cinic_shards.jobs import Progress, Tally, make_executor, run_jobs
from cinic_shards.options import checked, number_of_workers
from cinic_shards.read.open import is_packing, read_manifest
from cinic_shards.store import Store, StoreLike, open_store
from cinic_shards.tree import Source
from cinic_shards.tree.records import Tree
from cinic_shards.write.facts import make_manifest


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of ``verify``."""

    num_shards: int
    num_samples: int
    faults: tuple[Fault, ...]
    """The first 1,000 faults of each shard, then those of the manifest and the tree."""
    num_more_faults: int
    """Number of faults that are not listed."""
    strays: tuple[str, ...]
    """Files beside the dataset that its manifest does not name; they are no fault."""

    @property
    def is_whole(self) -> bool:
        """True if there is no fault."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return the fields and ``is_whole`` as a dict of JSON values."""
        faults = [fault.to_json() for fault in self.faults]
        return {"is_whole": self.is_whole, **asdict(self), "faults": faults}


@checked
def verify(
    path: StoreLike,
    *,
    quick: bool = False,
    against: str | os.PathLike[str] | Source | None = None,
    split_name: str | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Verification:
    """Check a dataset: digests, tar structure, index, every payload, every image, every count.

    Args:
        path: the dataset's folder, URL or open store.
        quick: check only sizes, SHA-256 and indexes; no image is decoded.
        against: a tree to compare with, an archive of one, or any ``tree.Source``: it must hold
            the same images, byte for byte, or if the shards are blocks, pixel for pixel.
        split_name: the split of all images of ``against``, if it has no folders of splits; see
            ``pack``.
        workers: number of processes; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Returns:
        Every fault; a damaged dataset raises nothing.

    Raises:
        StoreError: there is no dataset at ``path``.
        OptionError: an option is invalid.
        TreeError: ``against`` is not a tree of PNGs.
    """
    workers = number_of_workers(workers)
    if quick and against is not None:
        raise OptionError("quick compares no images; leave it out to compare with a tree")
    if split_name is not None and against is None:
        raise OptionError("split_name is that of a tree to compare with; give the tree")
    store = open_store(path)
    try:
        manifest = read_manifest(store)
    except FormatError as error:
        fault = _manifest_fault(f"{error.reason}; or rebuild it with cinic-shard reindex")
        return Verification(0, 0, (fault,), 0, ())

    with make_executor(workers) as executor, ExitStack() as stack:
        tree = (
            None
            if against is None
            else stack.enter_context(open_tree(against, executor, split_name))
        )
        jobs = list(_jobs(store, manifest, quick, tree))
        tally = Tally(progress, "verify", manifest.num_samples)
        checked = run_jobs(
            executor, check_shard, jobs, done=lambda shard: tally.add(shard.num_samples)
        )
    faults = [fault for shard in checked for fault in shard.faults]
    if not faults and not quick:
        faults += _compare(manifest, checked)
    if tree is not None:
        packed = {key for shard in checked for key in shard.keys}
        faults += unpacked_files(tree, packed)
    named = {job.name for job in jobs} | {fmt.MANIFEST_NAME}
    return Verification(
        len(jobs),
        manifest.num_samples,
        tuple(faults),
        sum(shard.num_more_faults for shard in checked),
        _strays(store, named),
    )


def _strays(store: Store, named: set[str]) -> tuple[str, ...]:
    """List the files beside the dataset; none if the store cannot list."""
    if not store.can_list:
        return ()
    names = store.names()
    if not is_packing(store, names):
        named = named | {fmt.PACKING_FOLDER}
    return tuple(name for name in names if name not in named)


def _jobs(store: Store, manifest: Manifest, quick: bool, tree: Tree | None) -> Iterator[CheckJob]:
    seed = _seed(manifest)
    for split in manifest.splits:
        images = None if tree is None else tree.image_files(split.name)
        for shard in split.shards:
            yield CheckJob(store, split.name, shard.name, shard, seed, quick, images)


def _seed(manifest: Manifest) -> int | None:
    """Return the seed of the packing order; None if the manifest states no valid one."""
    seed = manifest.options.get("seed")
    return seed if type(seed) is int and 0 <= seed <= fmt.MAX_INTEGER else None


def _manifest_fault(problem: str) -> Fault:
    return Fault(Location(fmt.MANIFEST_NAME), "manifest", problem)


def _compare(manifest: Manifest, checked: Sequence[CheckedShard]) -> Iterator[Fault]:
    """Compare the manifest with its shards, each of them intact."""
    yield from _compare_classes(manifest, checked)
    yield from _compare_options(manifest, checked)
    yield from _compare_order(checked)
    yield from _compare_facts(manifest, checked)


def _compare_classes(manifest: Manifest, checked: Sequence[CheckedShard]) -> Iterator[Fault]:
    stated = {shard.classes for shard in checked}
    classes = stated.pop() if stated else None
    if classes is None:
        class_of_label: dict[int, str] = {}
        for shard in checked:
            class_of_label |= shard.class_of_label or {}
        classes = tuple(name for _, name in sorted(class_of_label.items()))
    if stated:
        yield _manifest_fault("its shards state different classes")
    if classes != manifest.classes:
        says, found = fmt.shown(manifest.classes), fmt.shown(classes)
        yield _manifest_fault(f"its classes are {says}, its shards' are {found}")
    if classes != tuple(sorted(classes, key=str.encode)):
        yield _manifest_fault(f"its classes are {fmt.shown(classes)}, expected sorted names")


def _compare_options(manifest: Manifest, checked: Sequence[CheckedShard]) -> Iterator[Fault]:
    if "seed" in manifest.options and _seed(manifest) is None:
        says = fmt.shown(manifest.options["seed"])
        yield _manifest_fault(f"its seed is {says}, expected a number")
    sidecars = {shard.sidecars for shard in checked}
    stated = manifest.options.get("sidecars", [])
    if [list(names) for names in sidecars] != [stated]:
        says = fmt.shown(stated)
        yield _manifest_fault(f"its sidecars are {says}, its shards' are {sorted(sidecars)}")


def _compare_order(checked: Sequence[CheckedShard]) -> Iterator[Fault]:
    """Yield a fault for each shard that is out of order within its split."""
    for before, after in itertools.pairwise(checked):
        if (
            before.order
            and after.order
            and before.facts
            and after.facts
            and before.facts.split == after.facts.split
            and before.order[1] >= after.order[0]
        ):
            location = Location(after.facts.info.name)
            yield Fault(location, "order", f"belongs before {before.facts.info.name}")


def _compare_facts(manifest: Manifest, checked: Sequence[CheckedShard]) -> Iterator[Fault]:
    """Compare the manifest with the one that ``make_manifest`` makes from the shards."""
    formats = {(shard.encoding, shard.block_size) for shard in checked}
    if len(formats) > 1:
        yield _manifest_fault(
            f"its shards have several encodings or block sizes: {sorted(formats)}"
        )
        return
    encoding, block_size = formats.pop() if formats else (manifest.encoding, manifest.block_size)
    rebuilt = make_manifest(
        [shard.facts for shard in checked if shard.facts is not None],
        manifest.classes,
        manifest.options,
        encoding=ENCODINGS[encoding],
        block_size=block_size,
    )
    yield from _differences("its", manifest, rebuilt, ["encoding", "block_size", "fingerprint"])
    names = [split.name for split in manifest.splits]
    if names != sorted(set(names)):
        yield _manifest_fault(f"its splits are {names}, expected sorted names, each once")
        return
    for split, other in zip(manifest.splits, rebuilt.splits, strict=True):
        yield from _differences(f"split {split.name}'s", split, other, _names(SplitInfo, "shards"))
        for shard, other_shard in zip(split.shards, other.shards, strict=True):
            yield from _differences(f"{shard.name}'s", shard, other_shard, _names(ShardInfo))


def _names(dataclass_type: type, *without: str) -> list[str]:
    return [field.name for field in fields(dataclass_type) if field.name not in without]


def _differences(whose: str, stated: Any, found: Any, names: Sequence[str]) -> Iterator[Fault]:
    for name in names:
        stated_value, found_value = getattr(stated, name), getattr(found, name)
        if stated_value != found_value:
            says, is_found = fmt.shown(stated_value), fmt.shown(found_value)
            yield _manifest_fault(f"{whose} {name} is {says}, its shards give {is_found}")
