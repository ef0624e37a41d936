"""Cut splits into shards: choose the number of samples in each shard."""

from collections.abc import Iterator, Mapping

import cinic_shards.format as fmt
from cinic_shards.errors import OptionError
from cinic_shards.format import SplitInfo

MOST_BLOCKS = 10
"""The most blocks in a shard, by default."""
LEAST_SHARDS = 8
"""The fewest shards of a split that has as many blocks, by default."""


def default_shard_size(num_samples: int, block_size: int) -> int:
    """Return the default number of samples in each shard of a split; the last may have fewer.

    A shard has up to 10 complete blocks, as many as leave the split at least 8 shards (one for each
    block if it has fewer) and the last shard at least half as many samples as the others. If
    no such number is found, all shards have the same number of samples.

    Args:
        num_samples: samples in the split.
        block_size: samples per block.
    """
    if num_samples <= block_size:
        return MOST_BLOCKS * block_size
    # Programs that read entire shards, such as webdataset, share them among their workers.
    num_blocks = -(-num_samples // block_size)
    most = min(MOST_BLOCKS, max(1, (num_blocks - 1) // (LEAST_SHARDS - 1)))
    for blocks in range(most, (most - 1) // 2, -1):
        size = blocks * block_size
        last = (num_samples - 1) % size + 1
        if 2 * last >= size:
            return size
    return -(-num_samples // -(-num_blocks // most))


def choose_shard_sizes(
    num_samples: Mapping[str, int],
    block_size: int,
    *,
    shard_size: int | None = None,
    shards: int | None = None,
) -> dict[str, int]:
    """Return the number of samples in each shard of every split; the last may have fewer.

    Args:
        num_samples: samples in each split.
        block_size: samples per block.
        shard_size: the same number for all splits.
        shards: number of shards in every split, of equal size.

    Raises:
        OptionError: a split cannot be cut into ``shards`` shards of equal size.
    """
    if shard_size is not None:
        return dict.fromkeys(num_samples, shard_size)
    if shards is None:
        return {split: default_shard_size(n, block_size) for split, n in num_samples.items()}
    sizes = {split: -(-n // shards) for split, n in num_samples.items()}
    possible = {split: -(-n // sizes[split]) for split, n in num_samples.items()}
    if problems := [
        f"{split} ({num_samples[split]:,} samples) at most {fewer:,}"
        for split, fewer in possible.items()
        if fewer != shards
    ]:
        raise OptionError(
            f"shards {shards:,}: more than can be of equal size; expected for split "
            f"{', '.join(problems)}"
        )
    return sizes


def largest_shard(split: SplitInfo) -> int:
    """Return the number of samples in a split's largest shard."""
    return max(shard.num_samples for shard in split.shards)


def stated_shard_size(num_samples: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Return the shard size that the manifest states.

    It is the number of samples in the largest shard or, if every split has one shard, the number
    that shards could have.
    """
    if all(sizes[split] >= n for split, n in num_samples.items()):
        return max(sizes.values())
    return max(min(sizes[split], n) for split, n in num_samples.items())


def cut_into_shards(split: str, num_samples: int, shard_size: int) -> Iterator[tuple[str, slice]]:
    """Yield name and rows of each shard of a split.

    Args:
        split: the split's name.
        num_samples: samples in the split.
        shard_size: samples per shard; the last may have fewer.
    """
    num_shards = -(-num_samples // shard_size)
    for number in range(num_shards):
        start = number * shard_size
        stop = min(start + shard_size, num_samples)
        yield fmt.shard_name(split, number, num_shards), slice(start, stop)


def keeps_shards(split: SplitInfo, shard_size: int) -> bool:
    """Return True if a split's shards have ``shard_size`` samples, and the last one the rest."""
    *full, last = [shard.num_samples for shard in split.shards]
    return set(full) <= {shard_size} and last <= shard_size
