"""A loader's state: its position, and all that its batches depend on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from cinic_shards.errors import OptionError
from cinic_shards.loader.batch import Batch
from cinic_shards.loader.epoch import Epoch
from cinic_shards.loader.plan import PLAN_VERSIONS
from cinic_shards.options import checked, integer

STATE_VERSION = 1


class Position:
    """The position of a loader in its epochs."""

    def __init__(self, epoch: int = 0, step: int = 0, *, is_loaded: bool = False) -> None:
        self.epoch = epoch
        """The epoch that the next iteration runs."""
        self.first_step = step
        """The step at which it begins."""
        self._is_loaded = is_loaded
        """True after a state was loaded, until an iteration begins."""
        self._trainers_epoch: int | None = None
        """The number that a trainer has given to the epoch of the loaded state."""
        self._offset = 0
        """Difference to a trainer's numbers."""
        self.running: Epoch | None = None
        """The last iteration."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; the step of a loaded state of that epoch stays."""
        if epoch != self.epoch:
            self.first_step = 0
        self.epoch = epoch
        if self.running is not None and not self.running.is_open:
            self.running = None
        self._is_loaded, self._offset = False, 0

    def follow_trainer(self, epoch: int) -> None:
        """Choose the next iteration's epoch by a trainer's number.

        A loaded state goes first, and later numbers are relative to it. Fabric counts from 0 again
        when a run is resumed; Lightning counts an epoch that ``max_steps`` has cut as complete.
        """
        if self._is_loaded:
            self._trainers_epoch = epoch
            return
        offset = self._offset
        self.set_epoch(max(0, epoch + offset))
        self._offset = offset

    def begin(self, number: int, count: int, bytes_read: int) -> Epoch:
        """Begin an iteration over every ``count``-th step, from step ``number`` on.

        Args:
            number: number of the share.
            count: number of shares.
            bytes_read: bytes of payloads read so far.
        """
        if self._is_loaded and self._trainers_epoch is not None:
            self._offset = self.epoch - self._trainers_epoch
        self._is_loaded = False
        first = self.first_step + (number - self.first_step) % count
        self.running = Epoch(self.epoch, first, count, bytes_read)
        self.epoch += 1
        self.first_step = 0
        return self.running

    @property
    def unused(self) -> tuple[int, int] | None:
        """Epoch and step of the next batch if nothing was iterated; else None."""
        return (self.epoch, self.first_step) if self.running is None else None

    def of_next_batch(self, num_steps: int) -> tuple[int, int]:
        """Return epoch and step of the next batch, in epochs of ``num_steps``."""
        running = self.running
        if running is None or running.is_finished:
            return self.epoch, self.first_step
        if running.step >= num_steps:
            return running.number + 1, 0
        return running.number, running.step

    def of_share(self, num_steps: int) -> tuple[int, int]:
        """Return the same for one of several shares.

        Shares end at different times. So after a share's end it is the end of the epoch, not the
        beginning of the next one.
        """
        running = self.running
        if running is not None and running.step >= num_steps:
            return running.number, num_steps
        return self.of_next_batch(num_steps)


class EpochSampler:
    """A loader's ``sampler``, for trainers that call ``loader.sampler.set_epoch``."""

    def __init__(self, loader: "Resumable") -> None:
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the loader's next iteration, as a trainer counts.

        After a state was loaded, the next iteration runs from the position of the state, and later
        numbers are relative to its epoch.
        """
        self._loader.follow_trainer(epoch)


class Resumable(ABC):
    """The part of a loader that has a position, which ``state_dict`` returns.

    A subclass has a length, the number of batches in an epoch.
    """

    def __init__(self) -> None:
        self.plan_version = max(PLAN_VERSIONS)  # 1 if a state of release 0.1.0 was loaded
        self._position = Position()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]: ...

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """Number of samples on all ranks."""

    @abstractmethod
    def _conditions(self) -> dict[str, Any]:
        """Return everything that the batches of an epoch depend on."""

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs."""
        return self._position.epoch

    @property
    def sampler(self) -> "EpochSampler":
        """An object with ``set_epoch``: trainers look for it at this name."""
        return EpochSampler(self)

    @checked
    def follow_trainer(self, epoch: int) -> None:
        """Choose the next iteration's epoch; see ``EpochSampler``."""
        self._position.follow_trainer(integer("epoch", epoch))

    @property
    def is_at_start(self) -> bool:
        """True if the next batch is the first one of an epoch."""
        return self._position.of_next_batch(len(self))[1] == 0

    @checked
    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        It begins at its first batch, or at the step of a state of the same epoch that was loaded.

        Raises:
            OptionError: ``epoch`` is not an integer of at least 0.
        """
        self._position.set_epoch(integer("epoch", epoch))

    @property
    def is_iterating(self) -> bool:
        """True if an iteration was begun and has not ended, or was abandoned."""
        running = self._position.running
        return running is not None and not running.is_finished

    def restart_epoch(self) -> None:
        """Let the next iteration begin at its epoch's first batch, whatever state was loaded."""
        self._position.first_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next batch and all that it depends on, for a checkpoint.

        Prefetched batches do not count. Call it in the loop, after the training step of a batch.
        After the last batch of an epoch it is the start of the next one. After a ``break`` the
        state is the position of the break, until ``set_epoch`` or a new iteration, which runs the
        next epoch; ``load_state_dict`` returns to the position.

        Returns:
            A dictionary of strings and integers, which JSON can hold.
        """
        return self._state_at(*self._position.of_next_batch(len(self)))

    def share_state(self) -> dict[str, Any]:
        """Return ``state_dict`` of one of several shares; after its end, the end of the epoch."""
        return self._state_at(*self._position.of_share(len(self)))

    @checked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next iteration at a state's position; later epochs keep its plan version too.

        Raises:
            OptionError: the state is from a loader with a different dataset, subset, order, seed,
                augmentation or global batch size, or is not a state; lists all differences. The
                loader does not change.
        """
        self.load_share_state(state)
        if self._position.first_step == len(self):
            self._position = Position(self._position.epoch + 1, is_loaded=True)

    def load_share_state(self, state: Mapping[str, Any]) -> None:
        """Load a state of one of several shares, which may be the end of an epoch.

        Raises:
            OptionError: as ``load_state_dict``.
        """
        epoch, step = check_state(state, self._conditions(), len(self))
        self._position = Position(epoch, step, is_loaded=True)
        self.plan_version = state["plan_version"]

    def _state_at(self, epoch: int, step: int) -> dict[str, Any]:
        return self._conditions() | {"epoch": epoch, "step": step}


def check_state(
    state: Mapping[str, Any], conditions: dict[str, Any], num_steps: int
) -> tuple[int, int]:
    """Return a state's epoch and step.

    Args:
        state: the state.
        conditions: all that the loader's batches depend on. The plan's version may be different.
        num_steps: steps in an epoch.

    Raises:
        OptionError: the state is from a different loader, or is not a state; lists all differences.
    """
    if missing := [name for name in (*conditions, "epoch", "step") if name not in state]:
        raise OptionError(f"not a loader's state: {missing[0]!r} is missing")
    version = state["plan_version"]
    own = conditions | ({"plan_version": version} if version in PLAN_VERSIONS else {})
    different = [
        f"{name} is {state[name]!r} in the state and {value!r} here"
        for name, value in own.items()
        if state[name] != value
    ]
    if different:
        raise OptionError(
            f"the state is from a different loader: {'; '.join(different)}; make the loader "
            "with the state's options, or start an epoch with set_epoch"
        )
    epoch, step = integer("epoch", state["epoch"]), integer("step", state["step"])
    if step > num_steps:
        raise OptionError(f"step={step}: an epoch has {num_steps:,} steps")
    return epoch, step
