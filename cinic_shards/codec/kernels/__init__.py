"""The numba kernels: compiled loops over a whole batch that run without the GIL.

Numba takes half a second to load, so it is loaded when a name is first asked for. Other modules
import this package and call ``kernels.decode_png_batch(...)``: a process that only hands out jobs,
or prints help, never loads numba.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cinic_shards.codec.kernels.permutation import choose as choose

_FILES = {
    "add_channel_sums": "images",
    "add_histograms": "images",
    "addresses_of_rows": "blocks",
    "augment_images": "images",
    "blocks_of_rows": "blocks",
    "choose": "permutation",
    "crc32_batch": "png",
    "decode_png_batch": "png",
    "draw_augmentations": "images",
    "find_png_data_batch": "png",
    "gather_images": "images",
    "is_compiling": "base",
    "predict_batch": "blocks",
    "unfilter_batch": "png",
    "unpredict_batch": "blocks",
}
"""Name -> the file that it is in."""


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All at once: no file is left to be imported later by a thread, while another one forks.
    for known, file in _FILES.items():
        globals()[known] = getattr(importlib.import_module(f"{__name__}.{file}"), known)
    return globals()[name]
