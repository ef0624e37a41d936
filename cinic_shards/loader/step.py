"""A step of an epoch: the rows to request from a source of pixels, and the pixels it returns."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.errors import DecodeError
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.read.selection import Selection


class Step:
    """The rows that one rank reads in one step, computed once, on first use.

    Args:
        plan: the epoch's plan.
        selection: maps the plan's rows to the reader's rows.
        number: number of the step.
    """

    # No cached_property: before Python 3.12, threads would wait for each other's steps.
    __slots__ = ("_positions", "_rows", "_selection", "number", "plan")

    def __init__(self, plan: EpochPlan, selection: Selection, number: int) -> None:
        self.plan = plan
        self.number = number
        self._selection = selection
        self._positions: NDArray[np.int64] | None = None
        self._rows: NDArray[np.int64] | None = None

    @property
    def positions(self) -> NDArray[np.int64]:
        """Positions among the selected samples, in batch order, int64, shape (N,)."""
        if self._positions is None:
            self._positions = self.plan.rows(self.number)
        return self._positions

    @property
    def rows(self) -> NDArray[np.int64]:
        """The reader's rows at these positions, int64, shape (N,)."""
        if self._rows is None:
            self._rows = self._selection.rows_at(self.positions)
        return self._rows


@dataclass(frozen=True, slots=True)
class Fetched:
    """The pixels of N rows."""

    addresses: NDArray[np.int64]
    """Address of each row's image, shape (N,). Valid as long as ``images`` exists or, if that is
    None, until the rows' step is released."""
    images: torch.Tensor | None
    """The images, uint8, shape (N, H, W, 3), if they were decoded into one tensor; else None."""
    errors: list[DecodeError]
    """An error for each damaged row; its ``position`` is among the N rows."""


def addresses_in(images: torch.Tensor) -> NDArray[np.int64]:
    """Return the address of each of N images in one tensor, int64, shape (N,)."""
    return images.data_ptr() + np.arange(images.size(0)) * images.stride(0)
