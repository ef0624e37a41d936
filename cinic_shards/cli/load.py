"""The commands for the loader: a comparison with ImageFolder, its kernels, and its caches."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cinic_shards.cli.console import AsJson, err_console, out_console, print_json, print_table


def bench(
    tree: Annotated[Path, typer.Argument(help="Folder of `<split>/<class>/*.png`.")],
    shards: Annotated[
        list[Path], typer.Argument(help="Folder of the shards packed from it, or several.")
    ],
    split: Annotated[str, typer.Option(help="Split to read, one only.")] = "train",
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 512,
    epochs: Annotated[
        int, typer.Option(min=1, help="Epochs to measure, after one to warm up.")
    ] = 3,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Make normalised float32 images instead of uint8.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the rates too: a PNG, SVG or PDF file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the speed of the loader and torchvision's ImageFolder, on the same images.

    Both read shuffled epochs from a warm page cache, in turn; ImageFolder with 0, 2 and 4 workers.
    Needs torchvision: `pip install 'cinic-shards[bench]'`.

    **Examples**

    `cinic-shard bench ./cinic ./shards`

    `cinic-shard bench ./cinic ./png ./zstd ./raw --plot speed.png`

    `cinic-shard bench ./cinic ./shards --normalize --json`
    """
    from cinic_shards.loader import bench as benchmark
    from cinic_shards.store import local_path

    with err_console.status("") as status:
        results = benchmark.compare(
            local_path(tree),
            [local_path(folder) for folder in shards],
            split=split,
            batch_size=batch_size,
            epochs=epochs,
            normalize=normalize,
            progress=lambda text: None if as_json else status.update(text),
        )
    if plot is not None:
        benchmark.plot(results, plot)
    best = {result.name: result for result in benchmark.best_by_name(results)}
    base = best["imagefolder"].median
    if as_json:
        rows = [
            {
                "name": result.name,
                "setting": result.setting,
                "dtype": "float32" if normalize else "uint8",
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
            help="Folder of the caches; default: CINIC_SHARDS_CACHE_DIR, or the user's cache "
            "folder."
        ),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete all caches that no process is using.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what `cache="disk"` has kept of each dataset, or delete it.

    **Examples**

    `cinic-shard cache`

    `cinic-shard cache --clear`
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


def warmup() -> None:
    """Compile all kernels now, so that no job waits for it; for container images and new nodes.

    Compiled kernels are cached in NUMBA_CACHE_DIR, the package's folder, the user's cache folder or
    a temporary folder: the first that can be written.

    **Examples**

    `cinic-shard warmup`
    """
    from cinic_shards.loader.warmup import warm_up

    start = time.perf_counter()
    with err_console.status("compiling the kernels"):
        warm_up()
    out_console.print(f"all kernels compiled, {time.perf_counter() - start:.1f} s")
