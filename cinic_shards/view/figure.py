"""Write a plot to a file; matplotlib is loaded only here."""

import os
from collections.abc import Callable
from typing import Any

from cinic_shards.errors import OptionError
from cinic_shards.store import local_path, store_of_file


def new_figure(path: str | os.PathLike[str]) -> Callable[[float, float], tuple[Any, Any]]:
    """Check the name of a plot's file, before anything is computed for it.

    Args:
        path: the file; its suffix decides the format: ``.png``, ``.svg`` or ``.pdf``.

    Returns:
        A function that takes a width and a height in inches, and returns a matplotlib ``Figure``
        and a function that writes it.

    Raises:
        OptionError: matplotlib is not installed, or does not know the format.
        OutputError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise OptionError("a plot needs matplotlib; pip install 'cinic-shards[bench]'") from error
    out = local_path(path)
    store, suffix = store_of_file(out), out.suffix[1:].lower()
    if suffix not in ("png", "svg", "pdf"):
        raise OptionError(f"{out}: expected a name that ends with .png, .svg or .pdf")

    def make(width: float, height: float) -> tuple[Any, Any]:
        figure = Figure(figsize=(width, height), layout="constrained")

        def write() -> None:
            with store.create(out.name) as file:
                figure.savefig(file, format=suffix)

        return figure, write

    return make
