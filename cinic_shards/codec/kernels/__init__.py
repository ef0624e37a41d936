"""The numba kernels: compiled loops over an entire batch that run without the GIL.

Numba takes half a second to load, so it is loaded on the first use of a kernel. Other modules
import this package and call ``kernels.decode_png_batch(...)``: a process that only submits jobs, or
prints help, never loads numba.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cinic_shards.codec.kernels.permutation import choose as choose

_FILES = ("base", "blocks", "images", "permutation", "png", "urn")


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        # Import all files at once, so that no thread imports one later while another thread forks.
        for file in _FILES:
            module = importlib.import_module(f"{__name__}.{file}")
            globals().update({n: value for n, value in vars(module).items() if n[0] != "_"})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]
