"""Rebuild a dataset's manifest from its shards."""

from collections.abc import Sequence
from typing import Any

import cinic_shards.format as fmt
from cinic_shards.check.job import CheckedShard, CheckJob
from cinic_shards.check.sequence import full_size, has_order, sequence_faults
from cinic_shards.check.shard import check_shard
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, StoreError, problem_lines
from cinic_shards.format import Manifest
from cinic_shards.jobs import Progress, Tally, make_executor, run_jobs
from cinic_shards.options import checked, number_of_workers
from cinic_shards.read.open import is_packing
from cinic_shards.store import Store, StoreLike, open_store
from cinic_shards.write.facts import make_manifest, write_manifest


@checked
def reindex(
    path: StoreLike,
    *,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Manifest:
    """Rebuild a dataset's manifest from its shards, after checking every byte of them.

    Shards do not record the packing seed, so the manifest states it only if it is 0. For other
    seeds the order of the shards is not checked. It is not noticed if an entire split is missing.

    Args:
        path: folder, URL or open store with all shards of a dataset; a manifest there is replaced.
        workers: number of processes; by default the cores that this process may use.
        progress: see ``jobs.Progress``; the total number of images is not known in advance.

    Returns:
        The manifest, as written.

    Raises:
        OptionError: ``workers`` is invalid.
        StoreError: there are no shards, some are missing, or packing did not finish.
        FormatError: a shard is damaged, a duplicate or in the wrong position, or the shards are not
            from one dataset.
        OutputError: the manifest is beyond a limit of the format, or cannot be written.

    Example:
        >>> os.remove("shards/manifest.json")
        >>> reindex("shards").num_samples
        270
    """
    workers = number_of_workers(workers)
    store = open_store(path)
    names = store.names()
    if is_packing(store, names):
        raise StoreError(str(store), "packing did not finish; run the same command again")
    jobs = [
        CheckJob(store=store, split=split, name=name, keeps_keys=True)
        for split, split_names in _shards_by_split(store, names).items()
        for name in split_names
    ]
    tally = Tally(progress, "reindex")

    with make_executor(workers) as executor:
        shards = run_jobs(
            executor, check_shard, jobs, done=lambda shard: tally.add(shard.num_samples)
        )
    faults = [fault for shard in shards for fault in shard.faults]
    num_more = sum(shard.num_more_faults for shard in shards)
    is_ordered = not faults and has_order(shards)
    if is_ordered:
        faults += [fault for shard in shards for fault in shard.order_faults]
        num_more += sum(shard.num_more_order_faults for shard in shards)
    if not faults:
        faults += sequence_faults(shards, is_ordered=is_ordered)
    if faults:
        count, listed = len(faults) + num_more, problem_lines(faults)
        raise FormatError(
            str(store), f"{count:,} faults in the shards; no manifest was written{listed}"
        )
    classes = _classes(store, shards)
    if len(sidecars := {shard.sidecars for shard in shards}) > 1:
        raise FormatError(
            str(store),
            f"its shards have different sidecars, {sorted(sidecars)}: they are not of one dataset",
        )
    if len(formats := {(shard.encoding, shard.block_size) for shard in shards}) > 1:
        raise FormatError(
            str(store),
            f"its shards have different encodings or block sizes, {sorted(formats)}: "
            "they are not of one dataset",
        )
    encoding, block_size = formats.pop()
    facts = [shard.facts for shard in shards if shard.facts is not None]
    options: dict[str, Any] = {"seed": 0} if is_ordered else {}
    options["shard_size"] = full_size(shards)[0]
    options["sidecars"] = list(sidecars.pop())
    manifest = make_manifest(
        facts, classes, options, encoding=ENCODINGS[encoding], block_size=block_size
    )
    write_manifest(store, manifest, store)
    return manifest


def _classes(store: Store, shards: Sequence[CheckedShard]) -> tuple[str, ...]:
    """Return the classes that intact shards state or, if they state none, those of their keys."""
    stated = {shard.classes for shard in shards}
    if len(stated) > 1:
        raise FormatError(
            str(store),
            "its shards state different lists of classes, or only some state one: "
            "they are not of one dataset",
        )
    if (classes := stated.pop()) is not None:
        return classes
    class_of_label: dict[int, str] = {}
    for shard in shards:
        for label, name in (shard.class_of_label or {}).items():
            if class_of_label.setdefault(label, name) != name:
                raise FormatError(
                    str(store),
                    f"label {label} is class {name} in some shards and "
                    f"{class_of_label[label]} in others: they are not of one dataset",
                )
    classes = tuple(name for _, name in sorted(class_of_label.items()))
    if sorted(class_of_label) != list(range(len(classes))) or len(set(classes)) < len(classes):
        labels = fmt.shown(class_of_label)
        raise FormatError(
            str(store),
            f"its shards' labels are {labels}, expected 0, 1, ... with a class each: "
            "they are not of one dataset",
        )
    return classes


def _shards_by_split(store: Store, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of each split's shards, in order.

    Raises:
        StoreError: no shard, a missing shard, or shards of several packings in one split.
    """
    found: dict[str, dict[int, dict[int, str]]] = {}
    for name in names:
        if parsed := fmt.parse_shard_name(name):
            split, number, num_shards = parsed
            found.setdefault(split, {}).setdefault(num_shards, {})[number] = name
    if not found:
        raise StoreError(
            str(store), "holds no shards; expected names such as train-00000-of-00009.tar"
        )
    for split, by_count in found.items():
        if len(by_count) > 1:
            counts = " and ".join(str(count) for count in sorted(by_count))
            raise StoreError(
                str(store),
                f"split {split} has shards of packings with {counts} shards; keep those of one",
            )
        ((num_shards, shards),) = by_count.items()
        if num_missing := num_shards - len(shards):
            first = next(number for number in range(num_shards) if number not in shards)
            name = fmt.shard_name(split, first, num_shards)
            raise StoreError(
                str(store), f"{name} is missing, and {num_missing - 1} more; fetch them"
            )
    return {
        split: [name for _, name in sorted(shards.items())]
        for split, by_count in sorted(found.items())
        for shards in by_count.values()
    }
