"""The commands for any dataset: pack it, look at it, check it, unpack it."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cinic_shards.cli.console import (
    Classes,
    Origins,
    Overwrite,
    Quiet,
    Shards,
    WhereToRun,
    Workers,
    app,
    err_console,
    interruptible,
    out_console,
    print_table,
    print_written,
    printable,
    warn_unless,
)
from cinic_shards.progress import ProgressReport

if TYPE_CHECKING:
    from cinic_shards.view.duplicates import Duplicates


@app.command()
def pack(
    tree: Annotated[
        Path,
        typer.Argument(
            help="Folder of `<split>/<class>/*.png`, or a `.tar`, `.tar.gz`, `.tar.xz`, `.tar.bz2` "
            "or `.zip` of one."
        ),
    ],
    out: Annotated[str, typer.Argument(help="Folder or URL for the shards; empty or new.")],
    encoding: Annotated[
        str | None,
        typer.Option(
            help="`png` (default): the files as they are; `zstd`: blocks of pixels, the smallest, "
            "for object storage; `raw`: blocks as they lie in memory, the fastest from a disk."
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(help="Samples a shard; default: 10 blocks, 10240.")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Samples that are decoded and mixed together; default: 1024.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the packing order; default: 0.")] = None,
    sidecars: Annotated[
        str | None,
        typer.Option(help="Members beside each PNG: `cls` (default), `cls,json`, `json`, `none`."),
    ] = None,
    workers: Workers = None,
    executor: WhereToRun = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Pack a tree of PNGs into tar shards: every byte and name kept, or every pixel and name.

    The same tree and options give the same bytes, with any number of workers. Where the process
    was killed, the same command goes on with what was finished.

    An archive is not unpacked: what is compressed in it takes one temporary file while it is
    packed, beside the shards (or in TMPDIR, where they go to a URL).

    **Examples**

    `cinic-shard pack ./cinic ./shards`

    `cinic-shard pack CINIC-10.tar.gz ./shards`

    `cinic-shard pack ./cinic ./shards --encoding raw`

    `cinic-shard pack ./cinic s3://bucket/cinic --encoding zstd`

    `cinic-shard pack ./cinic s3://bucket/cinic --executor dask://scheduler:8786`

    `cinic-shard pack ./cinic ./shards --sidecars cls,json --shard-size 5000`
    """
    from cinic_shards.write.pack import PackOptions
    from cinic_shards.write.pack import pack as pack_tree

    chosen: dict[str, Any] = {
        "encoding": encoding,
        "shard_size": shard_size,
        "block_size": block_size,
        "seed": seed,
        "sidecars": parse_sidecars(sidecars),
    }
    options = PackOptions(**{name: value for name, value in chosen.items() if value is not None})

    start = time.perf_counter()
    with interruptible("nothing was packed"), ProgressReport(err_console, quiet=quiet) as report:
        manifest = pack_tree(
            tree,
            out,
            options,
            workers=workers,
            executor=executor,
            overwrite=overwrite,
            progress=report.update,
            warn=warn_unless(quiet),
        )
    if not quiet:
        print_written(manifest, time.perf_counter() - start, out)


def parse_sidecars(text: str | None) -> tuple[str, ...] | None:
    """The option ``--sidecars``."""
    if text is None:
        return None
    return () if text == "none" else tuple(text.split(","))


@app.command()
def convert(
    shards: Shards,
    out: Annotated[str, typer.Argument(help="Folder or URL for the new shards.")],
    encoding: Annotated[str, typer.Option(help="`png`, `zstd` or `raw`: see `pack`.")],
    block_size: Annotated[
        int | None, typer.Option(help="Samples a block; default: as it is.")
    ] = None,
    sidecars: Annotated[
        str | None, typer.Option(help="Of `png`: `cls` (default), `cls,json`, `json`, `none`.")
    ] = None,
    workers: Workers = None,
    executor: WhereToRun = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a dataset anew in another encoding, without the tree: the same samples and order.

    From `png` the shards are those that packing the tree would give. To `png` from blocks the files
    are encoded anew, with the same pixels. Where it was killed, the same command goes on.

    **Example:** `cinic-shard convert ./shards ./shards-raw --encoding raw`
    """
    from cinic_shards.write.convert import convert as convert_dataset

    start = time.perf_counter()
    with interruptible("nothing was converted"), ProgressReport(err_console, quiet=quiet) as report:
        manifest = convert_dataset(
            shards,
            out,
            encoding=encoding,
            block_size=block_size,
            sidecars=parse_sidecars(sidecars),
            workers=workers,
            executor=executor,
            overwrite=overwrite,
            progress=report.update,
            warn=warn_unless(quiet),
        )
    if not quiet:
        print_written(manifest, time.perf_counter() - start, out)


@app.command()
def info(
    shards: Shards,
    duplicates: Annotated[
        bool,
        typer.Option("--duplicates", help="Images with the same pixels, within and across splits."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; of duplicates, their keys too.")
    ] = False,
) -> None:
    """Show what a dataset holds: shards, and counts by split, class and origin.

    **Examples**

    `cinic-shard info ./shards`

    `cinic-shard info ./shards --duplicates`
    """
    from cinic_shards.read.dataset import Dataset
    from cinic_shards.view.duplicates import find_duplicates

    dataset = Dataset(shards)
    if duplicates:
        _print_duplicates(find_duplicates(dataset.store, dataset.manifest), as_json)
        return
    summary = dataset.summary()
    if as_json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    for name in ("encoding", "block_size", "format_version", "fingerprint", "licence", "citation"):
        if summary[name]:
            out_console.print(printable(f"{name.replace('_', ' ')}: {summary[name]}"))
    splits: dict[str, dict[str, Any]] = summary["splits"]
    rows: list[tuple[str, list[str]]] = [
        ("images", [f"{split['num_samples']:,}" for split in splits.values()]),
        ("shards", [f"{split['num_shards']:,}" for split in splits.values()]),
        ("MB", [f"{split['bytes'] / 1e6:,.1f}" for split in splits.values()]),
        ("image size", [", ".join(split["image_sizes"]) for split in splits.values()]),
        ("mean", [_floats(split["mean"]) for split in splits.values()]),
        ("std", [_floats(split["std"]) for split in splits.values()]),
    ]
    for kind, label in (("origins", "origin"), ("classes", "class")):
        for name in dict.fromkeys(key for split in splits.values() for key in split[kind]):
            counts = [f"{split[kind].get(name, 0):,}" for split in splits.values()]
            rows.append((f"{label}: {name}", counts))
    print_table(["", *splits], [[label, *cells] for label, cells in rows])


def _print_duplicates(found: "Duplicates", as_json: bool) -> None:
    counts = found.counts
    if as_json:
        print(json.dumps({"counts": counts, "groups": found.groups}, indent=1, ensure_ascii=False))
        return
    out_console.print(f"{len(found.groups):,} images are there more than once")
    where = sorted({place for row in counts.values() for place in row})
    total = {place: sum(row.get(place, 0) for row in counts.values()) for place in where}
    if found.groups:
        # An image under two classes is in the row of its first one; "other class" counts it again.
        for place in where:
            total[place] -= counts.get("other class", {}).get(place, 0)
        rows = {**counts, "all": total}
        print_table(
            ["class", *where],
            [[name, *(f"{row.get(place, 0):,}" for place in where)] for name, row in rows.items()],
        )


def _floats(values: list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


@app.command()
def verify(
    shards: Shards,
    quick: Annotated[
        bool, typer.Option("--quick", help="Sizes, SHA-256 and indexes alone; decode no image.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            help="A tree, or an archive of one, to compare with: byte for byte, blocks by their "
            "pixels.",
            metavar="TREE",
        ),
    ] = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Check every byte of a dataset, and list every fault. Exit status 1 if there is any.

    **Examples**

    `cinic-shard verify ./shards`

    `cinic-shard verify ./shards --against ./cinic && rm -r ./cinic`
    """
    from cinic_shards.check.verify import verify as verify_dataset

    start = time.perf_counter()
    with (
        interruptible("verifying did not finish"),
        ProgressReport(err_console, quiet=quiet or as_json) as report,
    ):
        found = verify_dataset(
            shards, quick=quick, against=against, workers=workers, progress=report.update
        )
    seconds = time.perf_counter() - start
    if as_json:
        print(json.dumps({"is_whole": found.is_whole, **asdict(found)}, indent=1))
    else:
        for fault in found.faults:
            out_console.print(printable(str(fault)))
        if found.num_more_faults:
            out_console.print(f"and {found.num_more_faults:,} more faults in these shards")
        if found.strays and not quiet:
            strays = ", ".join(found.strays[:5]) + (", ..." if len(found.strays) > 5 else "")
            err_console.print(printable(f"warning: not part of the dataset: {strays}"))
        if found.is_whole and not quiet:
            like = f", like {against}" if against else ""
            what = "digests and indexes" if quick else "every byte and image"
            out_console.print(
                printable(
                    f"whole{like}: {what} of {found.num_samples:,} samples in {found.num_shards} "
                    f"shards, {seconds:.1f} s"
                )
            )
    if not found.is_whole:
        if not as_json:
            num_faults = len(found.faults) + found.num_more_faults
            err_console.print(printable(f"error: {shards}: {num_faults:,} faults"))
        raise typer.Exit(1)


@app.command()
def unpack(
    shards: Shards,
    out: Annotated[Path, typer.Argument(help="Folder for the tree of PNGs.")],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; repeatable.")] = None,
    class_name: Classes = None,
    origin: Origins = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Write the PNGs back: byte for byte, or from blocks encoded anew with the same pixels.

    Where it was stopped, the same command goes on.

    **Examples**

    `cinic-shard unpack ./shards ./cinic`

    `cinic-shard unpack ./shards ./cifar-part --origin cifar --split train`
    """
    from cinic_shards.write.unpack import unpack as unpack_dataset

    start = time.perf_counter()
    stopped = "unpacking did not finish; the same command goes on"
    with interruptible(stopped), ProgressReport(err_console, quiet=quiet) as report:
        done = unpack_dataset(
            shards,
            out,
            splits=split,
            classes=class_name,
            origins=origin,
            workers=workers,
            progress=report.update,
        )
    if not quiet:
        kept = f", {done.num_kept:,} were there already" if done.num_kept else ""
        seconds = time.perf_counter() - start
        out_console.print(
            printable(f"{done.num_written:,} files written{kept}, {seconds:.1f} s: {out}")
        )


@app.command()
def reindex(
    shards: Annotated[str, typer.Argument(help="Folder with all shards of a dataset.")],
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Make a lost or damaged manifest anew from the shards, each of which is checked.

    **Example:** `cinic-shard reindex ./shards`
    """
    from cinic_shards.check.verify import reindex as make_manifest

    with interruptible("no manifest was made"), ProgressReport(err_console, quiet=quiet) as report:
        manifest = make_manifest(shards, workers=workers, progress=report.update)
    if not quiet:
        out_console.print(printable(f"{manifest.num_samples:,} samples: {shards}/manifest.json"))


@app.command()
def warmup() -> None:
    """Compile every kernel now, so that no job waits for it: in an image, a container, a node.

    Compiled kernels are kept beside the package, or in NUMBA_CACHE_DIR.
    """
    from cinic_shards.loader.warmup import warm_up

    start = time.perf_counter()
    with err_console.status("compiling the kernels"):
        warm_up()
    out_console.print(f"every kernel is compiled, {time.perf_counter() - start:.1f} s")


@app.command()
def bench(
    tree: Annotated[Path, typer.Argument(help="Folder of `<split>/<class>/*.png`.")],
    shards: Annotated[Path, typer.Argument(help="The shards packed from it.")],
    split: Annotated[str, typer.Option(help="Split to read.")] = "train",
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 512,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs that count; one more warms up.")] = 3,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="float32 normalised images instead of uint8.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare torchvision's ImageFolder with the loader, on this machine and the same images.

    Shuffled epochs from a warm page cache, the contenders in turn; ImageFolder with 0, 2 and 4
    workers. Needs torchvision: `pip install 'cinic-shards[bench]'`.

    **Example:** `cinic-shard bench ./cinic ./shards`
    """
    from cinic_shards.loader import bench as benchmark

    with err_console.status("") as status:
        results = benchmark.compare(
            tree,
            shards,
            split=split,
            batch_size=batch_size,
            epochs=epochs,
            normalize=normalize,
            progress=lambda text: None if as_json else status.update(text),
        )
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
        print(json.dumps(rows, indent=1))
        return
    print_table(
        ["", "setting", "images/s", "min", "max", "against best ImageFolder"],
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
