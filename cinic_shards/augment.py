"""What is done to the pixels of a batch, on the CPU or batched on a device."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards import kernels
from cinic_shards.errors import OptionError


def normalize_table(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """The normalised value of each channel's 256 values: float32, shape (3, 256).

    ``(value / 255 - mean) / std`` in double precision, rounded once. CPU and device look values
    up in the same table, so they agree to the bit.

    Args:
        mean: of each channel, on the scale 0 to 1.
        std: of each channel, on the scale 0 to 1; above 0.
    """
    means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if means.shape != (3,) or stds.shape != (3,) or not (stds > 0).all():
        raise OptionError(
            f"mean {mean} and std {std}: expected three channels each, and deviations above 0"
        )
    values = np.arange(256) / 255
    return ((values - means[:, None]) / stds[:, None]).astype(np.float32)


def normalize(
    images: NDArray[np.uint8], table: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Look up every value of ``images`` (N, H, W, 3) in ``table``, into ``out`` of that shape."""
    kernels.normalize_batch(images.reshape(-1, 3), table, out.reshape(-1, 3))


def normalize_on_device(images: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """``normalize`` as torch operations, where ``images`` lie.

    Args:
        images: uint8, shape (N, 3, H, W), in channels-last memory order.
        table: float32, shape (3, 256), on the same device.

    Returns:
        float32, shape (N, 3, H, W), in channels-last memory order.
    """
    first = torch.arange(0, 3 * 256, 256, dtype=torch.int64, device=images.device)
    places = images.permute(0, 2, 3, 1).to(torch.int64) + first
    return torch.take(table, places).permute(0, 3, 1, 2)
