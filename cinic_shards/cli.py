"""The command ``cinic-shard``: arguments, printing and exit codes."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cinic_shards import __version__
from cinic_shards.errors import CinicShardsError, OptionError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Paths and class names are printed as they are, and on one line; a table in a file or a pipe is not
# cut to a terminal's width.
_AS_IT_IS: dict[str, Any] = {
    "highlight": False,
    "markup": False,
    "emoji": False,
    "soft_wrap": True,
}
_out = Console(width=None if sys.stdout.isatty() else 200, **_AS_IT_IS)
_err = Console(stderr=True, **_AS_IT_IS)

_QUIET_LINE_SECONDS = 10.0


def main() -> None:
    """Run the command; a user's mistake ends it with one message and no traceback."""
    try:
        app(prog_name="cinic-shard")
    except CinicShardsError as error:
        _err.print(_printable(f"error: {error}"))
        sys.exit(2 if isinstance(error, OptionError) else 1)


def _printable(text: str) -> str:
    """Names come from strangers: what would steer a terminal is shown as an escape sequence."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def _version(value: bool) -> None:
    if value:
        _out.print(f"cinic-shard {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pack CINIC-10, or any folder of PNGs by split and class, into tar shards.

    **Example:** `cinic-shard pack ./cinic ./shards && cinic-shard info ./shards`
    """


@app.command()
def pack(
    tree: Annotated[Path, typer.Argument(help="Folder of `<split>/<class>/*.png`.")],
    out: Annotated[str, typer.Argument(help="Folder for the shards; empty or new.")],
    shard_size: Annotated[
        int | None, typer.Option(help="Samples a shard; default: 10 blocks, 10240.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the packing order; default: 0.")] = None,
    sidecars: Annotated[
        str | None,
        typer.Option(help="Members beside each PNG: `cls` (default), `cls,json`, `json`, `none`."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; default: the cores this process may use.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the dataset that OUT holds.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
) -> None:
    """Pack a tree of PNGs into tar shards, every byte and name kept.

    The same tree and options give the same bytes, with any number of workers.

    **Examples**

    `cinic-shard pack ./cinic ./shards`

    `cinic-shard pack ./cinic ./shards --sidecars cls,json --shard-size 5000`
    """
    from cinic_shards.pack import PackOptions
    from cinic_shards.pack import pack as pack_tree

    chosen: dict[str, Any] = {"shard_size": shard_size, "seed": seed}
    if sidecars is not None:
        chosen["sidecars"] = () if sidecars == "none" else tuple(sidecars.split(","))
    options = PackOptions(**{name: value for name, value in chosen.items() if value is not None})

    def warn(text: str) -> None:
        _err.print(_printable(f"warning: {text}"))

    start = time.perf_counter()
    try:
        with _ProgressReport(quiet) as report:
            manifest = pack_tree(
                tree,
                out,
                options,
                workers=workers,
                overwrite=overwrite,
                progress=report.update,
                warn=(lambda text: None) if quiet else warn,
            )
    except KeyboardInterrupt:
        _err.print("interrupted: nothing was packed")
        raise typer.Exit(130) from None
    if not quiet:
        seconds = time.perf_counter() - start
        shards = [shard for split in manifest.splits for shard in split.shards]
        size = sum(shard.size for shard in shards)
        _out.print(
            f"{manifest.num_samples:,} images in {len(shards)} shards, {size / 1e6:,.1f} MB, "
            f"{seconds:.1f} s ({manifest.num_samples / seconds:,.0f} images/s): {out}"
        )


@app.command()
def info(
    shards: Annotated[str, typer.Argument(help="Folder that `pack` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a dataset holds: shards, and counts by split, class and origin.

    **Example:** `cinic-shard info ./shards`
    """
    from cinic_shards.reader import Dataset

    summary = Dataset(shards).summary()
    if as_json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    for name in ("encoding", "format_version", "fingerprint", "licence", "citation"):
        if summary[name]:
            _out.print(_printable(f"{name.replace('_', ' ')}: {summary[name]}"))
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
    _print_table(["", *splits], [[label, *cells] for label, cells in rows])


def _floats(values: list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


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
    from cinic_shards import bench as benchmark

    with _err.status("") as status:
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
    _print_table(
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


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    table = Table(box=None)
    for name in header:
        table.add_column(_printable(name), no_wrap=True)
    for row in rows:
        table.add_row(*map(_printable, row))
    _out.print(table, crop=False)


class _ProgressReport:
    """A bar with rate and time left on a terminal; elsewhere a line now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None
        if not quiet and _err.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<6}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=_err,
                transient=True,
            )
        self._tasks: dict[str, Any] = {}
        self._starts: dict[str, float] = {}
        self._last_line = time.perf_counter()

    def __enter__(self) -> "_ProgressReport":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, doing: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images (0: not known yet) are done."""
        now = time.perf_counter()
        rate = done / max(now - self._starts.setdefault(doing, now), 1e-3)
        rate_text = f"{rate:,.0f} images/s" if rate < 1e8 and now > self._starts[doing] else ""
        if self._bar:
            if doing not in self._tasks:
                self._tasks[doing] = self._bar.add_task(doing, total=None, rate="")
            self._bar.update(
                self._tasks[doing], completed=done, total=total or None, rate=rate_text
            )
        elif not self._quiet and now - self._last_line >= _QUIET_LINE_SECONDS:
            self._last_line = now
            of = f" of {total:,}" if total else ""
            _err.print(f"{doing}: {done:,}{of} images, {rate_text}")
