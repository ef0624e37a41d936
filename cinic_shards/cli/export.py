"""The command that writes a dataset in the files of other libraries: export."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cinic_shards.cli.console import out_console, print_json, warn_unless, working
from cinic_shards.cli.options import (
    Classes,
    Deduplicate,
    ExcludeDuplicatesOf,
    Fraction,
    Imbalance,
    Indices,
    Keys,
    NewLabels,
    NewSplits,
    Origins,
    Part,
    PartsFile,
    PerClass,
    Quiet,
    Shards,
    SubsetSeed,
    Threads,
    choice,
    json_option,
)

ExportFormat = Literal["npz", "npy", "pt", "parquet", "cifar"]
LabelNoise = Annotated[
    float, typer.Option(metavar="X", help="Change this part of the labels to another class.")
]


def export(
    shards: Shards,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the files.")],
    format: Annotated[  # noqa: A002 - the option's name
        ExportFormat,
        choice(
            ExportFormat,
            help="`npz`, `npy`: numpy; `pt`: torch; `parquet`: as Hugging Face's image datasets; "
            "`cifar`: CIFAR-10's batches.",
        ),
    ],
    split: NewSplits = None,
    class_name: Classes = None,
    origin: Origins = None,
    indices: Indices = None,
    keys: Keys = None,
    parts: PartsFile = None,
    part: Part = None,
    deduplicate: Deduplicate = False,
    exclude_duplicates_of: ExcludeDuplicatesOf = None,
    per_class: PerClass = None,
    imbalance: Imbalance = None,
    fraction: Fraction = 1.0,
    labels: NewLabels = None,
    label_noise: LabelNoise = 0.0,
    seed: SubsetSeed = 0,
    workers: Threads = None,
    as_json: Annotated[bool, json_option("`files`, `num_samples`, `seconds`")] = False,
    quiet: Quiet = False,
) -> None:
    r"""Write images and labels as files that other libraries read.

    Each split is one file or more. Images have ImageFolder's order, by class and file name; in
    `parquet` they have that of the shards. Existing files are not replaced.

    Examples:
        cinic-shard export ./shards ./arrays --format npz
        cinic-shard export ./shards ./hub --format parquet
        cinic-shard export ./shards ./few --format pt --split train \
            --per-class 400
    """
    from cinic_shards import exports
    from cinic_shards.read.subset import Subset

    subset = Subset(
        classes=class_name, origin=origin, indices=indices, keys=keys, partition=parts, part=part,
        deduplicate=deduplicate, exclude_duplicates_of=exclude_duplicates_of, per_class=per_class,
        imbalance=imbalance, fraction=fraction, labels=labels, label_noise=label_noise, seed=seed,
    )  # fmt: skip
    with working("nothing was exported", quiet=quiet or as_json) as work:
        done = exports.export(
            shards,
            out,
            format,
            splits=split or (),
            subset=subset,
            workers=workers,
            progress=work.update,
            warn=warn_unless(quiet),
        )
    if as_json:
        print_json({
            "files": [str(file) for file in done.files],
            "num_samples": done.num_samples,
            "seconds": work.seconds,
        })  # fmt: skip
    elif not quiet:
        names = ", ".join(file.name for file in done.files)
        out_console.print(f"{done.num_samples:,} images, {work.seconds:.1f} s: {out}: {names}")
