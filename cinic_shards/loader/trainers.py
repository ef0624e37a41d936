"""A loader for trainers: as a torch ``DataLoader``, and with the end of each epoch."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from cinic_shards.loader.batch import Batch
from cinic_shards.loader.state import Resumable


class _EntireEpochs(IterableDataset[Batch]):
    """A loader's batches from the first one of its epoch on, as the dataset of a ``DataLoader``.

    Accelerate's ``skip_first_batches`` makes a new ``DataLoader`` from it and counts from there, so
    the step of a state that was loaded must not count too. The length is the number of samples, as
    for other loaders.
    """

    def __init__(self, loader: Resumable) -> None:
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

    Example:
        >>> dataloader = ShardLoader("shards", batch_size=32).as_dataloader()
        >>> len(dataloader), len(next(iter(dataloader)).labels)
        (2, 32)
    """

    _is_accelerate_prepared = True
    use_stateful_dataloader = True
    """Accelerate then saves and loads the state."""

    def __init__(self, loader: Resumable) -> None:
        super().__init__(_EntireEpochs(loader), batch_size=None)
        self.loader = loader
        object.__setattr__(self, "sampler", loader.sampler)  # torch allows no other way

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
    batches: Generator[Batch, None, None], loader: Resumable
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
