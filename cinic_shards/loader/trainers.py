"""What trainers look for in a loader: a sampler, a torch ``DataLoader``, the end of an epoch."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from cinic_shards.loader.batch import Batch

if TYPE_CHECKING:
    from cinic_shards.loader.loader import ShardLoader


class EpochSampler:
    """A loader's ``sampler``, which trainers such as Lightning call ``set_epoch`` of."""

    def __init__(self, loader: "ShardLoader") -> None:
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the loader's next iteration."""
        self._loader.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._loader.num_samples


class _ForwardSampler(EpochSampler):
    """Does not go back: Fabric counts the epochs from 0 again when a run is resumed."""

    def set_epoch(self, epoch: int) -> None:
        if epoch > self._loader.epoch:
            super().set_epoch(epoch)


class _EntireEpochs(IterableDataset[Batch]):
    """A loader's batches from the first one of its epoch on, as the dataset of a ``DataLoader``.

    Accelerate's ``skip_first_batches`` makes a new ``DataLoader`` from it and counts from there, so
    the step of a state that was loaded must not count too. The length is the number of samples, as
    for other loaders.
    """

    def __init__(self, loader: "ShardLoader") -> None:
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.num_samples

    def __iter__(self) -> Iterator[Batch]:
        self._loader.restart_epoch()
        return iter(self._loader)


class TrainerLoader(DataLoader[Batch]):
    """A ``ShardLoader`` as a ``DataLoader`` without workers or collation.

    ``prepare`` of Accelerate returns it as it is, since each rank has its own part already, and
    ``save_state`` stores its state. ``set_epoch`` and the state are the loader's.
    """

    _is_accelerate_prepared = True
    use_stateful_dataloader = True
    """Accelerate then saves and loads the state."""

    def __init__(self, loader: "ShardLoader") -> None:
        super().__init__(_EntireEpochs(loader), batch_size=None)
        self.loader = loader
        object.__setattr__(self, "sampler", _ForwardSampler(loader))  # torch allows no other way

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.loader)

    def __iter__(self) -> Any:
        return iter(self.loader)

    def __repr__(self) -> str:
        return f"TrainerLoader({self.loader!r})"

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return ``ShardLoader.state_dict``."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state; see ``ShardLoader.load_state_dict``."""
        self.loader.load_state_dict(state)


def in_accelerate(
    batches: Generator[Batch, None, None], loader: "ShardLoader"
) -> Generator[Batch, None, None]:
    """Yield the batches, and let Accelerate know the last one of an epoch.

    It then makes a step of the optimizer, even if too few gradients have accumulated.
    """
    from accelerate.data_loader import DataLoaderStateMixin  # imported by the caller's program
    from accelerate.state import GradientState

    class Progress(DataLoaderStateMixin):  # type: ignore[misc]
        gradient_state = GradientState()

    progress = Progress()
    with closing(batches):
        progress.begin()
        try:
            for batch in batches:
                progress.end_of_dataloader = loader.is_at_start
                yield batch
        finally:
            progress.end()
