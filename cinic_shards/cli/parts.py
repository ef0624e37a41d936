"""The command that divides a dataset into parts: partition."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cinic_shards.cli.console import (
    command,
    given,
    next_step,
    out_console,
    print_json,
    print_table,
    working,
)
from cinic_shards.cli.options import (
    Classes,
    Deduplicate,
    ExcludeDuplicatesOf,
    Indices,
    Keys,
    Origins,
    Quiet,
    SchemeName,
    Seed,
    Shards,
    choice,
    json_option,
)
from cinic_shards.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cinic_shards.read.dataset import Dataset
    from cinic_shards.read.partition import Partition

_MAX_ROWS = 20
"""Parts that are printed."""

Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="JSON", help="File to write: `parts.json`.")
]
SchemeOption = Annotated[
    SchemeName | None,
    choice(
        SchemeName,
        help="`iid`: equal parts at random; `dirichlet`: classes in random shares; `classes`: "
        "few classes in each part; `quantity`: random or falling sizes; `fractions`: named parts.",
    ),
]
Parts = Annotated[
    int | None, typer.Option(metavar="N", help="Number of parts; all schemes but `fractions`.")
]
Alpha = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Parameter of the Dirichlet distribution: parts differ more with a small one; "
        "default: 0.5.",
    ),
]
ClassesPerPart = Annotated[int | None, typer.Option(metavar="N", help="For `classes`; default: 2.")]
Exponent = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="For `quantity`: sizes fall by a power law with this exponent; default: random sizes, "
        "by `--alpha`.",
    ),
]
Fractions = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="For `fractions`: `target=0.4,shadow=0.4,reference=0.2`."),
]
MinSize = Annotated[int, typer.Option(min=0, metavar="N", help="Least number of images in a part.")]
DividedSplit = Annotated[
    str, typer.Option(metavar="NAME", help="Split to divide, or several, as `train+valid`.")
]
FromIndices = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Read the parts from a file instead: indices into ImageFolder, as FedML's "
        "`net_dataidx_map.txt` or JSON.",
    ),
]
ToIndices = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the parts as indices into ImageFolder too: `.txt` (FedML) or `.json`.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Draw sizes and classes of the parts: a PNG, SVG or PDF file."
    ),
]
PartitionJson = Annotated[
    bool,
    json_option(
        "`path`, `split`, `options`, `num_samples`, `classes`, and `parts`: the number of images "
        "of each class in each part"
    ),
]


def partition(
    shards: Shards,
    out: Output,
    scheme: SchemeOption = None,
    parts: Parts = None,
    alpha: Alpha = None,
    classes_per_part: ClassesPerPart = None,
    exponent: Exponent = None,
    fractions: Fractions = None,
    min_size: MinSize = 1,
    seed: Seed = 0,
    split: DividedSplit = "train",
    class_name: Classes = None,
    origin: Origins = None,
    indices: Indices = None,
    keys: Keys = None,
    deduplicate: Deduplicate = False,
    exclude_duplicates_of: ExcludeDuplicatesOf = None,
    from_indices: FromIndices = None,
    to_indices: ToIndices = None,
    plot: Plot = None,
    as_json: PartitionJson = False,
    quiet: Quiet = False,
) -> None:
    r"""Divide a split into disjoint parts, such as clients.

    No two parts share an image. The same dataset and options give the same file on every machine;
    it belongs to this dataset, in any encoding. The loaders take a part by `Subset(partition=,
    part=)`, and `select` by `--partition` and `--part`.

    Examples:
        cinic-shard partition ./shards -o parts.json --scheme iid --parts 20
        cinic-shard partition ./shards -o parts.json --scheme dirichlet \
            --parts 100 --alpha 0.3 --min-size 10 --plot parts.png
        cinic-shard partition ./shards -o parts.json --scheme fractions \
            --fractions target=0.4,shadow=0.4,reference=0.2 --split train+valid
        cinic-shard partition ./shards -o parts.json \
            --from-indices net_dataidx_map.txt
    """
    from cinic_shards.read.dataset import Dataset
    from cinic_shards.read.subset import Subset
    from cinic_shards.view.parts import plotter

    options = given(
        parts=parts, alpha=alpha, exponent=exponent, classes_per_part=classes_per_part,
        fractions=_parse(fractions),
    )  # fmt: skip
    subset = Subset(
        classes=class_name, origin=origin, indices=indices, keys=keys, deduplicate=deduplicate,
        exclude_duplicates_of=exclude_duplicates_of,
    )  # fmt: skip
    options |= {} if subset == Subset() else {"subset": subset}
    with working("nothing was written", quiet=quiet or as_json):
        draw = None if plot is None else plotter(plot)
        dataset = Dataset(shards)
        if from_indices is None:
            options |= {"split": split, "min_size": min_size, "seed": seed}
        found = _divide(dataset, scheme, options, from_indices, split)
        counts = found.count(dataset)
        if to_indices is not None:
            found.write_indices(to_indices, dataset)
        if draw is not None:
            draw(list(found), dataset.manifest.classes, counts)
        found.write(out)
    if as_json:
        _print_json(out, found, counts, dataset.manifest.classes)
    elif not quiet:
        _print_parts(out, found, counts, dataset.manifest.classes)
        next_step(
            command("select", shards, "./part", "--partition", out, "--part", next(iter(found)))
        )


def _divide(
    dataset: "Dataset",
    scheme: SchemeName | None,
    options: dict[str, Any],
    from_indices: Path | None,
    split: str,
) -> "Partition":
    """Make the parts by a scheme, or read them."""
    from cinic_shards.read.partition import Partition
    from cinic_shards.read.schemes import partition as divide

    if scheme is not None and from_indices is None:
        return divide(dataset.store, scheme, **options)
    if scheme is not None or from_indices is None:
        raise OptionError("--scheme and --from-indices: give one of them")
    if options:
        raise OptionError("--from-indices: the file says what is in each part; leave out options")
    return Partition.read_indices(from_indices, dataset, split)


def _parse(text: str | None) -> dict[str, float] | None:
    """Parse ``target=0.4,shadow=0.4``."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = item.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise OptionError(
                f"--fractions {text!r}: {item!r}: expected a name and a number, as target=0.4"
            ) from None
        if name in found:
            raise OptionError(f"--fractions {text!r}: {name} is there twice")
        found[name] = value
    return found


def _print_json(
    out: Path, found: "Partition", counts: "NDArray[np.int64]", classes: tuple[str, ...]
) -> None:
    print_json({
        "path": str(out), "split": found.split, "options": found.options,
        "num_samples": found.num_samples, "classes": classes,
        "parts": dict(zip(found, counts.tolist(), strict=True)),
    })  # fmt: skip


def _print_parts(
    out: Path, found: "Partition", counts: "NDArray[np.int64]", classes: tuple[str, ...]
) -> None:
    rows = [
        [name, f"{row.sum():,}", *(f"{count:,}" for count in row.tolist())]
        for name, row in zip(found, counts, strict=True)
    ]
    print_table(["part", "images", *classes], rows[:_MAX_ROWS])
    if len(rows) > _MAX_ROWS:
        out_console.print(f"... and {len(rows) - _MAX_ROWS:,} more parts, all with --json")
    sizes = list(found.sizes.values())
    out_console.print(
        f"{len(found):,} parts of {found.split}, {found.num_samples:,} images: {min(sizes):,} to "
        f"{max(sizes):,} in a part, median {statistics.median(sizes):,.0f}: {out}"
    )
    if num_left_out := found.options.get("num_left_out"):
        out_console.print(f"{num_left_out:,} images are in no part")
