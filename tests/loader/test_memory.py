"""Copying ahead: the same batches in the same order; the source is closed with the copies."""

from collections.abc import Iterator

import pytest
import torch

from cinic_shards.loader.memory import copy_ahead

closed: list[bool] = []


def source(count: int) -> Iterator[torch.Tensor]:
    try:
        for value in range(count):
            yield torch.full((1000,), value)
    finally:
        closed.append(True)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("NOT RUN: this machine has no CUDA device")
    return torch.device(request.param)


def copies(count: int, device: torch.device) -> Iterator[torch.Tensor]:
    return copy_ahead(
        source(count), lambda batch: batch.to(device) * 2, lambda batch: [batch], device
    )


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_all_batches_in_order(count: int, device: torch.device) -> None:
    found = list(copies(count, device))
    assert [int(batch[0]) for batch in found] == [2 * value for value in range(count)]
    assert all(batch.device.type == device.type for batch in found)


def test_an_abandoned_iterator_closes_its_source(device: torch.device) -> None:
    closed.clear()
    iterator = copies(5, device)
    next(iterator)
    del iterator
    assert closed == [True]
