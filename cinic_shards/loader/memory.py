"""Memory for batches, reused once nothing refers to it; and copies to a device ahead of use."""

import itertools
import math
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.errors import OptionError


class _Lease(weakref.ref["NDArray[Any]"]):
    """A weak reference that dies when nothing refers to a batch in ``buffer`` any more."""

    __slots__ = ("buffer",)
    buffer: NDArray[Any]


class BufferPool:
    """Memory for batches, reused once nothing refers to the batches in it.

    New memory costs a page fault per 4 KiB: a third of the time that decoding its pixels takes.
    The pool keeps a fixed number of buffers, what a loader has under way. A consumer that holds
    more batches gets memory that is freed when it drops them.

    Args:
        buffer_bytes: bytes of a buffer.
        max_buffers: number of buffers to keep.
        pinned: allocate pinned memory.
    """

    def __init__(self, buffer_bytes: int, max_buffers: int, *, pinned: bool = False) -> None:
        self.buffer_bytes = buffer_bytes
        self.max_buffers = max_buffers
        self.pinned = pinned
        self._free: list[_Lease] = []
        """Ended leases, whose buffers can be used again."""
        self._leases: dict[int, _Lease] = {}
        """All leases, by their ``id``: a weak reference only acts while it exists itself."""

    def __len__(self) -> int:
        """Return the number of buffers, used or free."""
        return len(self._leases)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of this shape with undefined content; its storage has no other bytes.

        Raises:
            OptionError: it does not fit into memory.
        """
        if self.pinned:  # torch itself reuses pinned memory, once its copies are done
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        lease = None
        if size > self.buffer_bytes or not (
            (lease := _pop(self._free)) or len(self._leases) < self.max_buffers
        ):
            return _as_tensor(_view(_new(size, shape), shape, dtype), dtype)
        if lease is None:
            buffer = _new(self.buffer_bytes, shape)
        else:
            buffer = lease.buffer
            del self._leases[id(lease)]
        # Every tensor on this memory keeps this view alive, including views of the batch. No Python
        # code runs when a lease ends: a Ctrl-C during that code would be lost.
        view = _view(buffer[:size], shape, dtype)
        lease = _Lease(view, self._free.append)
        lease.buffer = buffer
        self._leases[id(lease)] = lease
        return _as_tensor(view, dtype)


_pools: "WeakValueDictionary[tuple[int, int, bool], BufferPool]" = WeakValueDictionary()


def shared_pool(buffer_bytes: int, max_buffers: int, *, pinned: bool = False) -> BufferPool:
    """Return a pool that all loaders of this process with the same sizes share.

    Args:
        buffer_bytes: as for ``BufferPool``.
        max_buffers: as for ``BufferPool``.
        pinned: as for ``BufferPool``.
    """
    key = buffer_bytes, max_buffers, pinned
    pool = _pools.get(key)
    if pool is None:
        pool = _pools[key] = BufferPool(buffer_bytes, max_buffers, pinned=pinned)
    return pool


_ARRAY_DTYPES = {1: np.uint8, 2: np.int16, 4: np.float32}
"""Size -> a type of arrays of that size: numpy has no bfloat16."""


def _view(memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: torch.dtype) -> NDArray[Any]:
    return memory.view(_ARRAY_DTYPES[dtype.itemsize]).reshape(shape)


def _as_tensor(array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == dtype else tensor.view(dtype)


def split_apart(tensor: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Split a tensor along its first dimension.

    The parts share memory, but each has a storage of just its bytes: ``torch.save``, and queues
    between processes, write an entire storage.
    """
    if len(sizes) == 1:
        return [tensor]
    dtype = tensor.dtype
    array = (tensor.view(torch.int16) if dtype == torch.bfloat16 else tensor).numpy()
    ends = itertools.accumulate(sizes, initial=0)
    parts = [torch.from_numpy(array[start:stop]) for start, stop in itertools.pairwise(ends)]
    return parts if array.dtype != np.int16 else [part.view(dtype) for part in parts]


def _pop(leases: list[_Lease]) -> _Lease | None:
    try:
        return leases.pop()
    except IndexError:
        return None


def _new(size: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        return torch.empty(size, dtype=torch.uint8).numpy()
    except RuntimeError as error:
        raise OptionError(
            f"a batch of shape {shape} does not fit into memory; choose a smaller batch_size"
        ) from error


_S = TypeVar("_S")


_T = TypeVar("_T")


def copy_ahead(
    batches: Generator[_S, None, None],
    move: Callable[[_S], _T],
    tensors: Callable[[_T], list[torch.Tensor]],
    device: torch.device,
) -> Generator[_T, None, None]:
    """Move each batch to ``device`` while the one before it is in use.

    On a CUDA device the copies run on a separate stream: from pinned memory they overlap with the
    consumer's kernels. Other devices have no streams, and each batch is moved when it is requested.

    Args:
        batches: CPU batches.
        move: starts the copy of one batch, and the computation on the device.
        tensors: returns the device tensors of a moved batch.
        device: the device to move to.
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
    """Make the consumer's stream wait for the copy; keep the memory while that stream uses it."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(side)
    for tensor in tensors(batch):
        tensor.record_stream(current)
    return batch
