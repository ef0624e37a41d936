"""Normalising: one table, the same bits on the CPU and as torch operations."""

import numpy as np
import pytest
import torch

from cinic_shards.augment import normalize, normalize_on_device, normalize_table
from cinic_shards.errors import OptionError

MEAN, STD = (0.47, 0.46, 0.41), (0.24, 0.25, 0.26)


def test_the_table_is_the_definition_rounded_once() -> None:
    table = normalize_table(MEAN, STD)
    assert table.dtype == np.float32
    for channel in range(3):
        for value in (0, 1, 127, 255):
            exact = (value / 255 - MEAN[channel]) / STD[channel]
            assert table[channel, value] == np.float32(exact)


def test_within_rounding_of_torchvisions_order_of_operations() -> None:
    values = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
    for channel in range(3):
        expected = values.sub(MEAN[channel]).div(STD[channel])
        np.testing.assert_allclose(
            normalize_table(MEAN, STD)[channel], expected.numpy(), rtol=0, atol=3e-7
        )


def test_device_and_cpu_agree_to_the_bit_and_keep_channels_last() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    table = normalize_table(MEAN, STD)
    out = np.empty(images.shape, np.float32)
    normalize(images, table, out)
    on_device = normalize_on_device(
        torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(table)
    )
    assert on_device.shape == (5, 3, 4, 6)
    assert on_device.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(on_device.permute(0, 2, 3, 1).numpy(), out)
    np.testing.assert_array_equal(out[..., 1], table[1][images[..., 1]])


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.5,)), (MEAN, (0.2, 0.0, 0.2)), (MEAN, (0.2, -1, 0.2))]
)
def test_statistics_that_cannot_be(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(OptionError):
        normalize_table(mean, std)
