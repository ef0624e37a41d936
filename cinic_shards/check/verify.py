"""Verify a dataset: check every byte, and list every fault."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import cinic_shards.format as fmt
from cinic_shards.check.against import open_tree, unpacked_images
from cinic_shards.check.faults import Fault, FaultList
from cinic_shards.check.job import CheckedShard, CheckJob
from cinic_shards.check.manifest import manifest_fault, manifest_faults, stated_seed
from cinic_shards.check.sequence import has_order, sequence_faults
from cinic_shards.check.shard import check_shard
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, OptionError
from cinic_shards.format import Manifest, ShardInfo
from cinic_shards.jobs import Progress, Tally, make_executor, run_jobs
from cinic_shards.options import checked, number_of_workers
from cinic_shards.read.open import is_packing, parse_manifest, read_manifest_bytes
from cinic_shards.store import Store, StoreLike, open_store
from cinic_shards.tree import Source
from cinic_shards.tree.leftovers import Leftovers
from cinic_shards.tree.records import Tree


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of ``verify``.

    Example:
        >>> for fault in verify("shards", quick=True).faults:
        ...     print(fault)
    """

    num_shards: int
    num_samples: int
    faults: tuple[Fault, ...]
    """The first 1,000 faults of each shard, then those of the order, the manifest and the tree."""
    num_more_faults: int
    """Number of faults that are not listed."""
    strays: tuple[str, ...]
    """Files beside the dataset that its manifest does not name; they are no fault."""
    order_is_unknown: bool = False
    """True if the order was not checked, because the manifest states no packing seed."""
    leftovers: Leftovers | None = None
    """Files of the tree that are no images; None if the dataset is not compared with one. They are
    no fault, but in no dataset either."""
    compares_pixels: bool = False
    """True if the shards are blocks: then images, but not files, are the same as the tree's."""

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
    """Check a dataset: every byte of its shards, every image, and every field of the manifest.

    See docs/format.md, section "Verification", for what each byte is compared with.

    Args:
        path: the dataset's folder, URL or open store.
        quick: check everything but the payloads' CRC-32 and images; none is decoded.
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

    Example:
        >>> found = verify("shards", against="cinic")
        >>> found.is_whole, found.num_samples
        (True, 270)
    """
    workers = number_of_workers(workers)
    if quick and against is not None:
        raise OptionError("quick compares no images; leave it out to compare with a tree")
    if split_name is not None and against is None:
        raise OptionError("split_name is that of a tree to compare with; give the tree")
    store = open_store(path)
    data = read_manifest_bytes(store)
    try:
        manifest = parse_manifest(store, data)
    except FormatError as error:
        fault = manifest_fault(f"{error.reason}; or rebuild it with cinic-shard reindex")
        return Verification(0, 0, (fault,), 0, ())

    with make_executor(workers) as executor, ExitStack() as stack:
        tree = (
            None
            if against is None
            else stack.enter_context(open_tree(against, executor, split_name))
        )
        jobs = list(_jobs(store, manifest, quick, tree))
        tally = Tally(progress, "verify", manifest.num_samples)
        shards = run_jobs(
            executor, check_shard, jobs, done=lambda shard: tally.add(shard.num_samples)
        )
    faults = [fault for shard in shards for fault in shard.faults]
    num_more = sum(shard.num_more_faults for shard in shards)
    seed, is_ordered = _seed(manifest, shards)
    if is_ordered:
        faults += [fault for shard in shards for fault in shard.order_faults]
        num_more += sum(shard.num_more_order_faults for shard in shards)
    if not faults:
        faults += sequence_faults(shards, is_ordered=is_ordered)
    if not faults:
        found = _manifest_faults(data, manifest, shards, seed, quick)
        faults += found.faults
        num_more += found.num_more
    if tree is not None:
        packed = {key for shard in shards for key in shard.keys}
        faults += unpacked_images(tree, packed, _unreadable(manifest, shards))
    named = {job.name for job in jobs} | {fmt.MANIFEST_NAME}
    return Verification(
        len(jobs),
        manifest.num_samples,
        tuple(faults),
        num_more,
        _strays(store, named),
        not is_ordered,
        None if tree is None else tree.leftovers(),
        ENCODINGS[manifest.encoding].has_blocks,
    )


def _seed(manifest: Manifest, shards: Sequence[CheckedShard]) -> tuple[int | None, bool]:
    """Return the seed that the manifest should state, and if the order can be checked.

    If the manifest states no seed, it must not be 0, which the jobs assumed.
    """
    seed = stated_seed(manifest)
    if seed is not None:
        return seed, True
    is_ordered = all(shard.facts for shard in shards) and has_order(shards)
    return (0, True) if is_ordered else (None, False)


def _manifest_faults(
    data: bytes,
    manifest: Manifest,
    shards: Sequence[CheckedShard],
    seed: int | None,
    is_quick: bool,
) -> FaultList:
    found = FaultList(fmt.MANIFEST_NAME)
    try:
        for fault in manifest_faults(data, manifest, shards, seed=seed, is_quick=is_quick):
            found.add(fault.kind, fault.problem)
    except RecursionError:
        found.add("manifest", "its values are nested too deep")
    return found


def _unreadable(manifest: Manifest, shards: Sequence[CheckedShard]) -> dict[str, list[ShardInfo]]:
    """Return split -> its shards whose samples are unknown, without splits that have none."""
    names = {shard.name for shard in shards if shard.facts is None}
    found = {
        split.name: [shard for shard in split.shards if shard.name in names]
        for split in manifest.splits
    }
    return {split: shards for split, shards in found.items() if shards}


def _strays(store: Store, named: set[str]) -> tuple[str, ...]:
    """List the files beside the dataset; none if the store cannot list."""
    if not store.can_list:
        return ()
    names = store.names()
    if not is_packing(store, names):
        named = named | {fmt.PACKING_FOLDER}
    return tuple(name for name in names if name not in named)


def _jobs(store: Store, manifest: Manifest, quick: bool, tree: Tree | None) -> Iterator[CheckJob]:
    seed = stated_seed(manifest)
    for split in manifest.splits:
        images = None if tree is None else tree.image_files(split.name)
        for shard in split.shards:
            yield CheckJob(
                store=store,
                split=split.name,
                name=shard.name,
                info=shard,
                classes=manifest.classes,
                seed=seed or 0,
                quick=quick,
                tree=images,
                keeps_keys=seed is None or tree is not None,
            )
