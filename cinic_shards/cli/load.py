"""The tools for the loader: a comparison with ImageFolder, its kernels, and its caches."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinic_shards.cli.console import out_console, print_json, print_table, waiting
from cinic_shards.cli.options import Quiet, QuietReport, json_option

if TYPE_CHECKING:
    from cinic_shards.loader.bench import Result


def bench(
    tree: Annotated[
        Path, typer.Argument(metavar="TREE", help="Folder of `<split>/<class>/*.png`.")
    ],
    shards: Annotated[
        list[Path],
        typer.Argument(
            metavar="SHARDS...", help="Folder of the shards packed from it, or several."
        ),
    ],
    split: Annotated[str, typer.Option(metavar="NAME", help="Split to read, one only.")] = "train",
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images in a batch.")] = 512,
    epochs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Epochs to measure, after one to warm up.")
    ] = 3,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Make normalised float32 images instead of uint8.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the rates too: a PNG, SVG or PDF file."),
    ] = None,
    as_json: Annotated[
        bool,
        json_option(
            "a list of `name`, `setting`, `dtype`, `images_per_second`, `rates`, "
            "`ratio_to_best_imagefolder`"
        ),
    ] = False,
    quiet: QuietReport = False,
) -> None:
    """Compare the loader's speed with torchvision's ImageFolder.

    Both read shuffled epochs from a warm page cache, in turn; ImageFolder with 0, 2 and 4 workers.
    Needs torchvision: `pip install 'cinic-shards[bench]'`.

    Examples:
        cinic-shard bench ./cinic ./shards
        cinic-shard bench ./cinic ./png ./zstd ./raw --plot speed.png
        cinic-shard bench ./cinic ./shards --normalize --json
    """
    from cinic_shards.loader import bench as benchmark
    from cinic_shards.store import local_path

    draw = None if plot is None else benchmark.plotter(plot)
    with waiting("", quiet=quiet or as_json) as show:
        results = benchmark.compare(
            local_path(tree),
            [local_path(folder) for folder in shards],
            split=split,
            batch_size=batch_size,
            epochs=epochs,
            normalize=normalize,
            progress=show,
        )
    if draw is not None:
        draw(results)
    _print_rates(results, "float32" if normalize else "uint8", as_json)


def _print_rates(results: "list[Result]", dtype: str, as_json: bool) -> None:
    from cinic_shards.loader.bench import best_by_name

    base = {result.name: result for result in best_by_name(results)}["imagefolder"].median
    if as_json:
        rows = [
            {
                "name": result.name,
                "setting": result.setting,
                "dtype": dtype,
                "images_per_second": result.median,
                "rates": result.rates,
                "ratio_to_best_imagefolder": result.median / base,
            }
            for result in results
        ]
        print_json(rows)
        return
    print_table(
        ["", "setting", "images/s", "min", "max", "relative to best ImageFolder"],
        [
            [
                result.name,
                result.setting,
                f"{result.median:,.0f}",
                f"{min(result.rates):,.0f}",
                f"{max(result.rates):,.0f}",
                f"{result.median / base:.2f} x",
            ]
            for result in results
        ],
    )


def cache(
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the caches; default: CINIC_SHARDS_CACHE_DIR, or the user's cache "
            "folder.",
        ),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete all caches that no process is using.")
    ] = False,
    as_json: Annotated[
        bool, json_option("a list of `dataset`, `split`, `bytes`, `used`, `path`, `deleted`")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """List or delete what the loader keeps on the disk.

    That is what `ShardLoader(..., cache="disk")` has decoded or downloaded, for each dataset.

    Examples:
        cinic-shard cache
        cinic-shard cache --clear
    """
    from cinic_shards.loader import cache_folder

    root = cache_folder.cache_root(folder)
    found = cache_folder.cached_splits(root)
    state = {one: cache_folder.remove(one) for one in found} if clear else {}
    used = [datetime.fromtimestamp(one.used, UTC).isoformat(timespec="minutes") for one in found]
    if as_json:
        rows = [
            {
                "dataset": one.dataset,
                "split": one.split,
                "bytes": one.num_bytes,
                "used": when,
                "path": str(one.path),
                "deleted": state.get(one, False),
            }
            for one, when in zip(found, used, strict=True)
        ]
        print_json(rows)
        return
    if quiet:
        return
    words = {None: "", True: "deleted", False: "in use"}
    if found:
        print_table(
            ["dataset", "split", "MB", "used", "path", ""],
            [
                [one.dataset, one.split, f"{one.num_bytes / 1e6:,.1f}", when, str(one.path),
                 words[state.get(one)]]
                for one, when in zip(found, used, strict=True)
            ],
        )  # fmt: skip
    left = [one for one in found if not state.get(one)]
    total = sum(one.num_bytes for one in left)
    out_console.print(
        f"{len(left)} {'cache' if len(left) == 1 else 'caches'}, {total / 1e6:,.1f} MB: {root}"
    )


def warmup(
    as_json: Annotated[bool, json_option("`seconds`")] = False,
    quiet: Quiet = False,
) -> None:
    """Compile the kernels now, so that no later job waits.

    Kernels are the fast parts of this package. They are compiled when they are first used on a
    machine, which takes seconds; run this when you build a container image or set up a node.

    Compiled kernels are cached in NUMBA_CACHE_DIR, the package's folder, the user's cache folder or
    a temporary folder: the first that can be written.

    Examples:
        cinic-shard warmup
    """
    from cinic_shards.loader.warmup import warm_up

    start = time.perf_counter()
    with waiting("compiling the kernels", quiet=quiet or as_json):
        warm_up()
    seconds = time.perf_counter() - start
    if as_json:
        print_json({"seconds": seconds})
    elif not quiet:
        out_console.print(f"all kernels compiled, {seconds:.1f} s")
