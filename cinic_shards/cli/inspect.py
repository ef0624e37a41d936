"""The commands that count and check what is in a dataset: info, stats, verify, reindex."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cinic_shards.cli.console import (
    command,
    err_console,
    next_step,
    out_console,
    print_json,
    print_table,
    warn,
    working,
)
from cinic_shards.cli.leftovers import print_leftovers, same_as
from cinic_shards.cli.options import (
    Classes,
    Origins,
    Quiet,
    QuietReport,
    Shards,
    Split,
    Threads,
    Workers,
    json_option,
)
from cinic_shards.errors import few, grouped, without_secrets

if TYPE_CHECKING:
    from cinic_shards.check.verify import Verification
    from cinic_shards.view.duplicates import Duplicates
    from cinic_shards.view.stats import Counts, Stats

Against = Annotated[
    Path | None,
    typer.Option(
        help="Tree of PNGs, or an archive of one, to compare with: PNGs byte for byte, blocks "
        "by their pixels. Lists its files that are not in the dataset; default: none.",
        metavar="TREE",
    ),
]
SplitName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Split of all images of TREE, if it has no folders of splits; see `pack --help`.",
    ),
]


def info(
    shards: Shards,
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates",
            help="Count images with the same pixels instead, within and across splits.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        json_option(
            "`num_samples`, `encoding`, `classes`, `splits` and more; with `--duplicates`, "
            "`counts` and `groups` of keys"
        ),
    ] = False,
    quiet: QuietReport = False,
) -> None:
    """Show what a dataset holds, by split, class and origin.

    An origin is where an image comes from, as its file name says: CIFAR-10 or ImageNet. Only
    indexes are read, no images.

    Examples:
        cinic-shard info ./shards
        cinic-shard info ./shards --duplicates
    """
    from cinic_shards.read.dataset import Dataset
    from cinic_shards.view.duplicates import find_duplicates

    with working("nothing was read", quiet=quiet):
        dataset = Dataset(shards)
        found = find_duplicates(dataset.store, dataset.manifest) if duplicates else None
        summary = dataset.summary()
    if found is not None:
        _print_duplicates(found, as_json)
    elif as_json:
        print_json(summary)
    else:
        _print_summary(summary)


def _print_summary(summary: dict[str, Any]) -> None:
    for name in ("encoding", "block_size", "format_version", "fingerprint", "licence", "citation"):
        if summary[name]:
            out_console.print(f"{name.replace('_', ' ')}: {summary[name]}")
    splits: dict[str, dict[str, Any]] = summary["splits"]
    rows: list[tuple[str, list[str]]] = [
        ("images", [f"{split['num_samples']:,}" for split in splits.values()]),
        ("shards", [f"{split['num_shards']:,}" for split in splits.values()]),
        ("MB", [f"{split['bytes'] / 1e6:,.1f}" for split in splits.values()]),
        ("image size", [", ".join(split["image_sizes"]) for split in splits.values()]),
        ("mean", [_floats(split["mean"]) for split in splits.values()]),
        ("std", [_floats(split["std"]) for split in splits.values()]),
    ]
    for field, label in (("origins", "origin"), ("classes", "class")):
        for name in dict.fromkeys(key for split in splits.values() for key in split[field]):
            counts = [f"{split[field].get(name, 0):,}" for split in splits.values()]
            rows.append((f"{label}: {name}", counts))
    print_table(["", *splits], [[label, *cells] for label, cells in rows])


def _print_duplicates(found: "Duplicates", as_json: bool) -> None:
    counts = found.counts
    if as_json:
        print_json({"counts": counts, "groups": found.groups})
        return
    _print_num_duplicates(found)
    columns = sorted({column for row in counts.values() for column in row})
    total = {column: sum(row.get(column, 0) for row in counts.values()) for column in columns}
    if found.groups:
        # An image in two classes is in the row of its first class; "other class" counts it again.
        for column in columns:
            total[column] -= counts.get("other class", {}).get(column, 0)
        rows = {**counts, "all": total}
        print_table(
            ["class", *columns],
            [[name, *(f"{row.get(one, 0):,}" for one in columns)] for name, row in rows.items()],
        )


def _print_num_duplicates(found: "Duplicates") -> None:
    num_groups = len(found.groups)
    images = "image has" if num_groups == 1 else "images have"
    out_console.print(f"{num_groups:,} {images} duplicates")


def _floats(values: list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def verify(
    shards: Shards,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Check everything but the images: no checksums, no decoding."),
    ] = False,
    against: Against = None,
    split_name: SplitName = None,
    workers: Workers = None,
    as_json: Annotated[
        bool, json_option("`is_whole`, `faults`, `num_samples`, `leftovers` and more")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only faults and errors.")
    ] = False,
) -> None:
    """Check every byte of a dataset, and list every fault.

    The same fault in many samples is one line; `--json` lists each. The exit status is 1 if there
    is any fault or if, with `--against`, the tree holds any file that is not in the dataset:
    deleting the tree would lose it.

    Examples:
        cinic-shard verify ./shards
        cinic-shard verify ./shards --against ./cinic && rm -r ./cinic
    """
    from cinic_shards.check import verify as checker

    with working("verifying did not finish", quiet=quiet or as_json) as work:
        found = checker.verify(
            shards,
            quick=quick,
            against=against,
            split_name=split_name,
            workers=workers,
            progress=work.update,
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print_faults(found)
        if found.strays and not quiet:
            warn(f"not part of the dataset: {few(found.strays)}")
        if found.order_is_unknown and not quiet:
            warn("the order was not checked: the manifest states no packing seed")
        if found.is_whole and not quiet:
            like = same_as(found, against)
            what = "everything but the images" if quick else "every byte and image"
            out_console.print(
                f"intact{like}: {what} of {found.num_samples:,} samples in {found.num_shards} "
                f"shards, {work.seconds:.1f} s"
            )
            if not (found.leftovers and found.leftovers.files):
                next_step(f"in Python, ShardLoader({without_secrets(shards)!r}, split=...)")
    left = found.leftovers
    if left and not as_json:
        print_leftovers(str(against), left, quiet=quiet)
    if not found.is_whole and not as_json:
        err_console.print(f"error: {num_faults(shards, found)}")
    if not found.is_whole or (left and left.files):
        raise typer.Exit(1)


def _print_faults(found: "Verification") -> None:
    for line in grouped(found.faults):
        out_console.print(line)
    if found.num_more_faults:
        out_console.print(f"and {found.num_more_faults:,} more faults in these shards")


def num_faults(shards: str, found: "Verification") -> str:
    """Return the location of a dataset and its number of faults, for a message."""
    count = len(found.faults) + found.num_more_faults
    return f"{without_secrets(shards)}: {count:,} faults"


def reindex(
    shards: Annotated[
        str, typer.Argument(metavar="SHARDS", help="Folder with all shards of a dataset.")
    ],
    workers: Workers = None,
    as_json: Annotated[
        bool, json_option("`path`, `num_samples`, `num_shards`, `fingerprint`, `seconds`")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Rebuild a lost or damaged manifest from the shards.

    Every shard is checked. The manifest is the file `manifest.json`, the list of all shards.

    Examples:
        cinic-shard reindex ./shards
    """
    from cinic_shards.check import reindex as checker

    with working("no manifest was written", quiet=quiet or as_json) as work:
        manifest = checker.reindex(shards, workers=workers, progress=work.update)
    if "seed" not in manifest.options and not quiet:
        warn("the packing seed is not 0: the order of the shards was not checked")
    path = f"{without_secrets(shards)}/manifest.json"
    if as_json:
        print_json(
            {
                "path": path,
                "num_samples": manifest.num_samples,
                "num_shards": sum(len(split.shards) for split in manifest.splits),
                "fingerprint": manifest.fingerprint,
                "seconds": work.seconds,
            }
        )
    elif not quiet:
        out_console.print(f"{manifest.num_samples:,} samples: {path}")
        next_step(command("verify", shards))


def stats(
    shards: Shards,
    split: Split = None,
    class_name: Classes = None,
    origin: Origins = None,
    histograms: Annotated[
        bool,
        typer.Option("--histograms", help="Count the pixel values, by origin and channel."),
    ] = False,
    workers: Threads = None,
    as_json: Annotated[
        bool,
        json_option(
            "`num_samples`, `mean`, `std`, `splits`, `classes`, `origins`, `synsets`, "
            "`duplicates`; with `--histograms`, `histograms` too"
        ),
    ] = False,
    quiet: QuietReport = False,
) -> None:
    """Print means and deviations of the channels, and counts.

    Means and standard deviations of red, green and blue are exact. The number of duplicates is
    printed too. Counts are by split, class and origin. For entire splits, means and deviations are
    in the manifest; for a class or an origin, the images are decoded.

    Examples:
        cinic-shard stats ./shards --split train+valid
        cinic-shard stats ./shards --origin cifar-train
        cinic-shard stats ./shards --histograms --json
    """
    from cinic_shards.view import stats as viewer

    with working("nothing was measured", quiet=quiet or as_json) as work:
        found = viewer.stats(
            shards,
            split=split,
            classes=class_name,
            origins=origin,
            histograms=histograms,
            workers=workers,
            progress=work.update,
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print_stats(found)


def _print_stats(found: "Stats") -> None:
    from cinic_shards.view.stats import pixel_sums

    images = "image" if found.num_samples == 1 else "images"
    out_console.print(f"{found.num_samples:,} {images}")
    rows = [["all", *map(_exact, (found.mean, found.std))]]
    for origin, counts in (found.histograms or {}).items():
        sums = pixel_sums(counts)
        rows.append([origin, *map(_exact, (sums.mean, sums.std))])
    print_table(["", "mean of red, green, blue", "standard deviation"], rows)
    splits = list(found.splits)
    table = [_count_row("images", found.splits, splits)]
    for label, counts_of in (("origin", found.origins), ("class", found.classes)):
        table += _count_rows(label, counts_of, splits)
    print_table(["", *splits, *(["all"] if len(splits) > 1 else [])], table)
    if found.synsets:
        out_console.print(f"{len(found.synsets):,} synsets: --json lists them")
    _print_num_duplicates(found.duplicates)


def _exact(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.8f}" for value in values)


def _count_rows(label: str, counts_of: "Counts", splits: list[str]) -> list[list[str]]:
    return [_count_row(f"{label}: {name}", by, splits) for name, by in counts_of.items()]


def _count_row(label: str, counts: dict[str, int], splits: list[str]) -> list[str]:
    cells = [f"{counts.get(split, 0):,}" for split in splits]
    return [label, *cells, *([f"{sum(counts.values()):,}"] if len(splits) > 1 else [])]
