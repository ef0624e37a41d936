"""Arguments and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from cinic_shards.options import did_you_mean

EncodingName = Literal["png", "zstd", "raw"]
FormatName = Literal["batches", "npz"]
SchemeName = Literal["iid", "dirichlet", "classes", "quantity", "fractions"]


def choice(values: Any, **option: Any) -> Any:
    """Make an option with a few values; a wrong one is rejected with a suggestion.

    Args:
        values: the ``Literal`` of the values.
        option: arguments of ``typer.Option``.
    """
    names: tuple[str, ...] = get_args(values)

    def parse(text: str) -> str:
        if text not in names:
            listed = ", ".join(map(repr, names))
            hint = did_you_mean(text, names)
            raise typer.BadParameter(f"{text!r} is not one of {listed}{hint}")
        return text

    return typer.Option(
        parser=parse, metavar="|".join(names), autocompletion=_completion(names), **option
    )


def _completion(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


Shards = Annotated[str, typer.Argument(metavar="SHARDS", help="Folder or URL of a packed dataset.")]
Encoding = Annotated[
    EncodingName | None,
    choice(
        EncodingName,
        help="`png`: the files unchanged; `zstd`: compressed blocks of pixels, the smallest, for "
        "object storage; `raw`: uncompressed blocks, the fastest on a local disk; default: `png`.",
    ),
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Images in a shard; default: up to 10 blocks (10240), but at least 8 shards a split, "
        "or one for each block if it has fewer.",
    ),
]
NumShards = Annotated[
    int | None,
    typer.Option(
        "--shards",
        metavar="N",
        help="Number of shards in each split, of equal size, instead of `--shard-size`.",
    ),
]
NewShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size",
        metavar="N",
        help="Images in a shard; default: complete splits keep their shards, new ones have those "
        "of `pack`, but no larger than before.",
    ),
]
BlockSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Images in a block, which are decoded and shuffled together; default: 1024.",
    ),
]
Sidecars = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Files stored with each PNG: `cls`, `json`, `cls,json` or `none`; default: `cls`.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Only this split, or several, as `train+valid`; default: all."
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="NAME", help="Only this class; repeatable; default: all."),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--origin",
        metavar="NAME",
        help="Only images from `cifar`, `cifar-train`, `cifar-test`, `imagenet` or `unknown`; "
        "repeatable; default: all.",
    ),
]
SubsetSeed = Annotated[
    int,
    typer.Option(metavar="N", help="Seed for `--per-class`, `--imbalance` and `--fraction`."),
]
NewLabels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="LABELS",
        help="`contiguous`: number only the classes that are left; `origin`: number the origins "
        "(for `export`); default: the dataset's labels.",
    ),
]
NewSplits = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        metavar="NAMES",
        help="`train`: this split; `train+valid`: joined, named `train-valid`; "
        "`all=train+valid`: joined, named `all`; repeatable; default: every split.",
    ),
]
ExcludeDuplicatesOf = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT",
        help="Drop images of other splits whose pixels also occur in SPLIT, or in several, as "
        "`valid+test`; default: none.",
    ),
]
Indices = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Only the images at these indices into ImageFolder: a JSON list, `.npy`, or text with "
        "one in each line; default: all.",
    ),
]
Keys = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Only these images: text with a name such as `train/cat/n02121808_29.png` in each "
        "line, or a JSON list; default: all.",
    ),
]
PartsFile = Annotated[
    Path | None,
    typer.Option(
        "--partition", metavar="FILE", help="Only one part, of a file of `partition`; see `--part`."
    ),
]
Part = Annotated[
    str | None, typer.Option(metavar="NAME", help="Number or name of the part of `--partition`.")
]
Deduplicate = Annotated[
    bool,
    typer.Option(
        "--deduplicate", help="Only the first of images with equal pixels, of all chosen splits."
    ),
]
PerClass = Annotated[
    int | None,
    typer.Option(metavar="N", help="Keep N images of each class, at random; default: all."),
]
Imbalance = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Keep fewer images of each next class, X times fewer of the last one than of the "
        "first; default: all.",
    ),
]
Fraction = Annotated[
    float,
    typer.Option(metavar="X", help="Part of each class of each split to keep, above 0, at most 1."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", help="Number of threads; default: one for each usable core."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of processes; default: one for each usable core."),
]
WhereToRun = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="WHERE",
        help="`process:N` (same as `--workers N`), or a dask cluster, `dask://host:port`, whose "
        "workers see the same files under the same paths; default: processes.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the random choice.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the dataset in OUT.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
QuietReport = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only the result and errors.")
]


def json_option(keys: str) -> Any:
    """Make the option ``--json``; its help lists the keys of what is printed."""
    return typer.Option("--json", help=f"Print JSON: {keys}.")


WrittenJson = Annotated[
    bool,
    json_option(
        "`path`, `num_samples`, `num_shards`, `bytes`, `encoding`, `fingerprint`, `seconds`"
    ),
]
