"""The commands that get CINIC-10: fetch it."""

from pathlib import Path
from typing import Annotated

import typer

from cinic_shards.cli.console import Quiet, app, err_console, interruptible, out_console, printable
from cinic_shards.cli.console import warn as warn_user
from cinic_shards.progress import ProgressReport


@app.command()
def fetch(
    out: Annotated[
        Path, typer.Argument(help="File to write, or a folder for it; default: this folder.")
    ] = Path("."),
    url: Annotated[
        str | None, typer.Option(help="Where the archive is; default: its publisher.")
    ] = None,
    accept_hash: Annotated[
        str | None,
        typer.Option(
            help="MD5 or SHA-256 that the file must have; default: the MD5 that other loaders "
            "record (the publisher states none).",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download CINIC-10.tar.gz from its publisher, and check it.

    Where it was cut off or stopped, the same command goes on. `pack` takes the archive as it is.

    **Examples**

    `cinic-shard fetch && cinic-shard pack CINIC-10.tar.gz ./shards`

    `cinic-shard fetch /data --url https://mirror.example/CINIC-10.tar.gz`
    """
    from cinic_shards.cinic.fetch import URL
    from cinic_shards.cinic.fetch import fetch as fetch_archive

    stopped = "fetching did not finish; the same command goes on"
    with (
        interruptible(stopped),
        ProgressReport(err_console, quiet=quiet, unit="bytes") as report,
    ):
        done = fetch_archive(
            out,
            url=url or URL,
            accept_hash=accept_hash,
            progress=report.update,
            warn=(lambda text: None) if quiet else warn_user,
        )
    if not quiet:
        what = "fetched" if done.num_received else "was whole already"
        out_console.print(
            printable(
                f"{done.path}: {what}, {done.size:,} bytes, {done.digest}\n"
                f"next: cinic-shard pack {done.path} ./shards"
            )
        )
