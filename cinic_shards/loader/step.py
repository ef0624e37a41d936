"""What a step of an epoch asks a source of pixels for, and what it gets."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.errors import DecodeError
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.read.subset import Selection


class Step:
    """What one rank reads in one step: computed once, by whoever needs it first.

    Args:
        plan: the epoch's.
        selection: maps the plan's places to the reader's rows.
        number: which step.
    """

    # No cached_property: in Python 3.11 the threads would wait for each other's steps.
    __slots__ = ("_places", "_rows", "_selection", "number", "plan")

    def __init__(self, plan: EpochPlan, selection: Selection, number: int) -> None:
        self.plan = plan
        self.number = number
        self._selection = selection
        self._places: NDArray[np.int64] | None = None
        self._rows: NDArray[np.int64] | None = None

    @property
    def places(self) -> NDArray[np.int64]:
        """Positions among the selected samples, in batch order, shape (N,)."""
        if self._places is None:
            self._places = self.plan.rows(self.number)
        return self._places

    @property
    def rows(self) -> NDArray[np.int64]:
        """The reader's rows of these, shape (N,)."""
        if self._rows is None:
            self._rows = self._selection.rows_at(self.places)
        return self._rows


@dataclass(frozen=True, slots=True)
class Fetched:
    """The pixels of N rows."""

    addresses: NDArray[np.int64]
    """Of each row's image, shape (N,). They hold until the rows' step is released, or as long as
    ``images``."""
    images: torch.Tensor | None
    """These images, uint8 (N, H, W, 3), if they were decoded side by side; else None."""
    errors: list[DecodeError]
    """What is damaged; ``position`` is a position among the N rows."""


def addresses_in(images: torch.Tensor) -> NDArray[np.int64]:
    """Where each of N images lies that are side by side, shape (N,)."""
    return images.data_ptr() + np.arange(images.size(0)) * images.stride(0)
