"""Estimate what a loader's ranks will read and hold, and warn if they read much."""

import sys
import warnings

import numpy as np
from torch.utils.data import get_worker_info

from cinic_shards.loader.cache import Cache
from cinic_shards.loader.pixel_source import PixelSource
from cinic_shards.loader.plan import EpochPlan, Reading
from cinic_shards.read.split import SplitReader

_MAX_TIMES_READ = 1.5
"""A warning if all ranks together read the dataset more often."""


def reading_of(plan: EpochPlan, reader: SplitReader, pixels: PixelSource) -> Reading | None:
    """Return what an epoch will read without its cache; None if ranks do not read entire blocks."""
    if pixels.takes_any_row:
        return None
    rows = int(np.diff(reader.block_starts).max())
    return plan.reading(rows * int(np.prod(reader.image_shape)))


def announce(plan: EpochPlan, reading: Reading | None, cache: Cache, progress: bool) -> None:
    """Print it with ``progress``; warn if there is no cache and ranks read much. On rank 0 only."""
    worker = get_worker_info()
    if reading is None or plan.rank > 0 or (worker is not None and worker.id > 0):
        return
    if progress:
        print(f"rank 0 of {plan.world_size}: {reading}", file=sys.stderr)
    if cache.kind == "none" and reading.times_read_by_all > _MAX_TIMES_READ:
        assert plan.block_starts is not None
        warnings.warn(
            f"{plan.world_size:,} ranks together will read the dataset "
            f"{reading.times_read_by_all:.1f} times in each epoch, because neighbours share some "
            f"of the {plan.num_lanes:,} lanes and {len(plan.block_starts) - 1:,} blocks; use a "
            "cache, a larger global batch (more lanes), smaller blocks (--block-size) or fewer "
            "ranks",
            stacklevel=4,  # the loop over the loader
        )
