"""Compare the shards of a dataset with each other: order, duplicates and sizes of each split."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from cinic_shards.check.faults import Fault, Location
from cinic_shards.check.job import CheckedShard

Shards = Sequence[CheckedShard]
"""All shards of a dataset in the manifest's order, each of them with a readable index."""


def has_order(checked: Shards) -> bool:
    """Return True if the samples are in the packing order of the seed that was assumed.

    Some of them may be out of place. In the order of a different seed, half of all neighbours are,
    and it is very unlikely (4 standard deviations) that by chance so few are.
    """
    wrong = sum(shard.num_order_faults for shard in checked)
    wrong += sum(after.order[0] <= before.order[1] for before, after in _neighbours(checked))
    num_splits = len({shard.split for shard in checked})
    pairs = sum(shard.num_samples for shard in checked) - num_splits
    return not wrong or wrong < pairs / 2 - 4 * math.sqrt((pairs + 2) / 12)


def sequence_faults(checked: Shards, *, is_ordered: bool) -> Iterator[Fault]:
    """Find shards that are in the wrong position, duplicates, or not of the same packing.

    Args:
        checked: the shards. If the order is unknown, they have their keys.
        is_ordered: True if the samples are in the packing order of a known seed, in which no two
            keys are equal.
    """
    yield from _sizes(checked)
    if not is_ordered:
        yield from _duplicates(checked)
        return
    for before, after in _neighbours(checked):
        if before.order[0] == after.order[0]:
            yield _fault(after, f"holds the same samples as {before.name}")
        elif before.order[1] >= after.order[0]:
            yield _fault(after, f"belongs before {before.name}")


def full_size(checked: Shards) -> tuple[int, bool]:
    """Return the number of samples in the largest shard of intact ones, and if it is certain.

    If every split has one shard, a shard could have more samples than the number returned.
    """
    size = max((shard.num_samples for shard in checked), default=1)
    return size, any(True for _ in _neighbours(checked))


def _neighbours(checked: Shards) -> Iterator[tuple[CheckedShard, CheckedShard]]:
    """Yield each pair of consecutive shards of a split."""
    for before, after in itertools.pairwise(checked):
        if before.split == after.split:
            yield before, after


def _sizes(checked: Shards) -> Iterator[Fault]:
    """Find shards that are not as large as the others of their split; the last may be smaller."""
    sizes: dict[str, Counter[int]] = {}
    for before, _ in _neighbours(checked):
        sizes.setdefault(before.split, Counter())[before.num_samples] += 1
    inner = {id(before) for before, _ in _neighbours(checked)}
    for shard in checked:
        if shard.split not in sizes:
            continue  # its only shard
        count = sizes[shard.split]
        size = max(count, key=lambda size: (count[size], size))
        found = shard.num_samples
        if found > size or (found < size and id(shard) in inner):
            yield _fault(
                shard,
                f"{found:,} samples, other shards have {size:,}; shards are swapped, or not of "
                "one packing",
            )


def _duplicates(checked: Shards) -> Iterator[Fault]:
    """Find shards with keys of earlier ones."""
    owner: dict[str, str] = {}
    for shard in checked:
        if shared := [key for key in shard.keys if key in owner]:
            count = f"{len(shared):,} of its samples" if len(shared) > 1 else "one of its samples"
            yield _fault(shard, f"{count}, such as {shared[0]}, in {owner[shared[0]]} too")
        owner |= dict.fromkeys(shard.keys, shard.name)


def _fault(shard: CheckedShard, problem: str) -> Fault:
    return Fault(Location(shard.name), "order", problem)
