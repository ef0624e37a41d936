"""CPU batches -> batches on a device, copied ahead of their use."""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

import torch

_S = TypeVar("_S")
_T = TypeVar("_T")


def copy_ahead(
    batches: Generator[_S, None, None],
    move: Callable[[_S], _T],
    tensors: Callable[[_T], list[torch.Tensor]],
    device: torch.device,
) -> Generator[_T, None, None]:
    """Move each batch to ``device`` while the one before it is in use.

    On a CUDA device the copies run on a stream of their own: from pinned memory they overlap with
    the consumer's kernels. Elsewhere the same steps run without streams.

    Args:
        batches: CPU batches.
        move: starts the copy of one batch, and whatever is computed on the device from it.
        tensors: the device tensors of a moved batch.
        device: where batches go.
    """
    if device.type != "cuda":
        with closing(batches):
            for batch in batches:
                yield move(batch)
        return
    side = torch.cuda.Stream(device)

    def start(batch: _S) -> _T:
        with torch.cuda.stream(side):
            return move(batch)

    ahead: _T | None = None
    with closing(batches):
        for batch in batches:
            following = start(batch)
            if ahead is not None:
                yield _hand_over(ahead, tensors, side, device)
            ahead = following
    if ahead is not None:
        yield _hand_over(ahead, tensors, side, device)


def _hand_over(
    batch: _T,
    tensors: Callable[[_T], list[torch.Tensor]],
    side: torch.cuda.Stream,
    device: torch.device,
) -> _T:
    """Make the consumer's stream wait for the copy, and keep the memory until it is done."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(side)
    for tensor in tensors(batch):
        tensor.record_stream(current)
    return batch
