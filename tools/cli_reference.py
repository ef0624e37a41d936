"""Print the help of every command as Markdown, in the order and the groups of ``--help``.

    python tools/cli_reference.py

``docs/conf.py`` adds it to docs/cli.md when it builds the site.
"""

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import typer.main
from typer.testing import CliRunner

from cinic_shards.cli import app

NAME = "cinic-shard"
WIDTH = 80
"""Columns of the help."""


def reference() -> str:
    """Return a section for each group of commands, with the help of each command."""
    lines = [*_help()]
    group = ""
    for words, command in _commands((), typer.main.get_command(app)):
        panel = getattr(command, "rich_help_panel", None)
        if len(words) == 1 and panel != group and isinstance(panel, str):
            group = panel
            lines += [f"## {group}", ""]
        lines += [f"{'#' * (2 + len(words))} {' '.join((NAME, *words))}", "", *_help(*words)]
    return "\n".join(lines)


def _commands(words: tuple[str, ...], group: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the words and the object of each command, in the order of ``--help``."""
    if not hasattr(group, "list_commands"):
        return
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if not command.hidden:
            yield (*words, name), command
            yield from _commands((*words, name), command)


def _help(*words: str) -> list[str]:
    """Return the lines of a block with a command and its help."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1"}):
        done = CliRunner().invoke(app, [*words, "--help"], prog_name=NAME)
    if done.exit_code:
        raise RuntimeError(f"{' '.join((NAME, *words))} --help: status {done.exit_code}")
    text = [line.rstrip() for line in done.output.strip("\n").splitlines()]
    return ["```console", f"$ {' '.join((NAME, *words))} --help", *text, "```", ""]


if __name__ == "__main__":
    print(reference())
