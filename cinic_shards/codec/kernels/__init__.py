"""The numba kernels: compiled loops over a whole batch that run without the GIL.

Every kernel is cached on disk after its first compilation. Where no cache folder is writable the
kernels are compiled anew in each process, and one warning says so.
"""

from cinic_shards.codec.kernels.base import kernel, mix, part, quick_kernel
from cinic_shards.codec.kernels.blocks import (
    addresses_of_rows,
    blocks_of_rows,
    predict_batch,
    unpredict_batch,
)
from cinic_shards.codec.kernels.images import (
    add_channel_sums,
    add_histograms,
    augment_images,
    draw_augmentations,
    gather_images,
)
from cinic_shards.codec.kernels.png import (
    crc32_batch,
    decode_png_batch,
    find_png_data_batch,
    unfilter_batch,
)

__all__ = [
    "add_channel_sums",
    "add_histograms",
    "addresses_of_rows",
    "augment_images",
    "blocks_of_rows",
    "crc32_batch",
    "decode_png_batch",
    "draw_augmentations",
    "find_png_data_batch",
    "gather_images",
    "kernel",
    "mix",
    "part",
    "predict_batch",
    "quick_kernel",
    "unfilter_batch",
    "unpredict_batch",
]
