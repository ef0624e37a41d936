"""The plan of each epoch, for the rank that this process has by then."""

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import OptionError
from cinic_shards.loader.plan import EpochPlan, Order, Tail, part_of
from cinic_shards.loader.world import find_world
from cinic_shards.options import integer

_DEFAULT_BATCH_SIZE = 512


class Planner:
    """Makes the plans of one loader.

    Rank and world size, unless they are given, are looked up for each plan: a loader may be made
    before ``torch.distributed`` is initialised. Once a plan was made, the global batch size must
    not change.

    Raises:
        OptionError: an option is invalid, or there are too few samples for a batch.
    """

    def __init__(
        self,
        rank: int | None,
        world_size: int | None,
        batch_size: int | None,
        global_batch_size: int | None,
        *,
        name: str,
        num_samples: int,
        block_starts: NDArray[np.int64],
        seed: int,
        shuffle: bool,
        order: Order,
        tail: Tail,
    ) -> None:
        if batch_size is not None and global_batch_size is not None:
            raise OptionError("give batch_size (of each rank) or global_batch_size, not both")
        if global_batch_size is not None:
            global_batch_size = integer("global_batch_size", global_batch_size, 1)
        else:
            default = _DEFAULT_BATCH_SIZE
            batch_size = default if batch_size is None else integer("batch_size", batch_size, 1)
        self._batch_size, self._global_batch_size = batch_size, global_batch_size
        self._world = None if rank is world_size is None else find_world(rank, world_size)
        self._name = name
        self._num_samples = num_samples
        self._block_starts = block_starts
        self._seed = seed
        self._shuffle = shuffle
        self._order = order
        self._tail = tail
        self._used_size: int | None = None
        """Global batch size of the plans that were used."""
        self._checked(self._plan_for(0, None, self._world or (0, 1)))

    @property
    def world(self) -> tuple[int, int]:
        """Rank and world size, as given or as they are now."""
        return self._world or find_world(None, None)

    @property
    def global_batch_size(self) -> int:
        """Samples of a full batch on all ranks."""
        return self._size_for(self.world[1])

    @property
    def batch_size(self) -> int:
        """Samples of a full batch on this rank."""
        rank, world_size = self.world
        start, stop = part_of(self._size_for(world_size), rank, world_size)
        return stop - start

    def plan(self, epoch: int, version: int) -> EpochPlan:
        """Return an epoch's plan.

        Raises:
            OptionError: the number of ranks has changed, or is too large for the samples.
        """
        plan = self._checked(self._plan_for(epoch, version, self.world))
        if self._used_size not in (None, plan.global_batch_size):
            raise OptionError(
                f"a length, state or batch of this loader was taken with {self._used_size:,} "
                f"samples in a batch of all ranks; now there are {plan.world_size:,} ranks, with "
                f"{plan.global_batch_size:,}; take it after init_process_group, or give the loader "
                "rank and world_size, or global_batch_size"
            )
        self._used_size = plan.global_batch_size
        return plan

    def _size_for(self, world_size: int) -> int:
        if self._global_batch_size is not None:
            return integer("global_batch_size", self._global_batch_size, world_size)
        assert self._batch_size is not None
        return self._batch_size * world_size

    def _plan_for(self, epoch: int, version: int | None, world: tuple[int, int]) -> EpochPlan:
        rank, world_size = world
        return EpochPlan(
            num_samples=self._num_samples,
            global_batch_size=self._size_for(world_size),
            seed=self._seed,
            epoch=epoch,
            shuffle=self._shuffle,
            order=self._order,
            block_starts=self._block_starts,
            tail=self._tail,
            rank=rank,
            world_size=world_size,
            **({} if version is None else {"version": version}),
        )

    def _checked(self, plan: EpochPlan) -> EpochPlan:
        if len(plan) == 0:
            raise OptionError(
                f"split {self._name}: {self._num_samples:,} samples, fewer than the "
                f"{plan.global_batch_size:,} of a batch on all ranks; choose a smaller batch, or "
                "tail='short' or 'pad'"
            )
        return plan
