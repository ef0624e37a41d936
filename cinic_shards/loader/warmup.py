"""Run every kernel once on tiny inputs, so that it is compiled and cached on disk."""

from itertools import product
from typing import get_args

import numpy as np
import torch

from cinic_shards import codec
from cinic_shards.codec.kernels import (
    add_histograms,
    addresses_of_rows,
    blocks_of_rows,
    gather_images,
)
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.loader.augment import Augment, Transform
from cinic_shards.loader.plan import PLAN_VERSIONS, EpochPlan, Order


def warm_up() -> None:
    """Compile every kernel, or load it if it was compiled before."""
    images = np.zeros((2, 4, 4, 3), np.uint8)
    ImageMeter().add_images(images)
    add_histograms(images, np.zeros(2, np.int64), np.zeros((1, 3, 256), np.int64))
    for encoding in codec.ENCODINGS.values():
        some = images if encoding.has_blocks else images[:1]
        payload = np.frombuffer(encoding.encode(some), np.uint8)
        encoding.decode(codec.Payloads.one(payload), np.empty_like(some))
    codec.checksum(payload)
    addresses = images.ctypes.data + np.arange(2) * images[0].size
    gather_images(addresses, np.empty_like(images))
    rows, starts, found = np.arange(2), np.array([0, 1, 2]), np.empty(2, np.int64)
    blocks_of_rows(rows, starts, found)
    addresses_of_rows(rows, starts, addresses, images[0].size, found)
    for dtype in (torch.uint8, torch.float32, torch.float16):  # bfloat16 has float16's kernel
        transform = Transform(
            Augment(dtype=dtype), ((0.5,) * 3, (0.5,) * 3), images.shape[1:], seed=0
        )
        out = torch.empty(transform.buffer_shape(2), dtype=dtype)
        transform.on_cpu(addresses, transform.draw(np.arange(2), epoch=0), out)
        if dtype == torch.uint8:
            transform.on_cpu(addresses, None, out)
    for order, version in product(get_args(Order), PLAN_VERSIONS):
        plan = EpochPlan(
            num_samples=2, global_batch_size=1, order=order, block_starts=starts, version=version
        )
        plan.rows(0)
        plan.last_steps()
