"""Help and usage errors of the commands, as plain text of at most 80 columns.

Typer's own help prints a type beside each option, ``<bool>`` for a flag, and takes 0.2 s to load.
"""

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cinic_shards.errors import text_without_secrets, without_secrets

_UsageError: Any = typer.BadParameter.__mro__[1]
"""Typer does not export it."""

_FIRST_COMMANDS = """\
  cinic-shard pack ./cinic ./shards              pack a folder of PNGs
  cinic-shard verify ./shards --against ./cinic  prove that nothing was lost
  cinic-shard info ./shards                      show what the dataset holds
"""

_FIRST_STEPS = f"""\
cinic-shard packs images into a few tar files, to train from them at full speed.

Begin with these:
{_FIRST_COMMANDS}
All commands:  cinic-shard --help
One command:   cinic-shard pack --help
"""
"""Printed by the command without arguments."""

_EPILOG = """\
"cinic-shard COMMAND --help" describes a command. Results go to standard output;
progress, warnings, errors and the next step go to standard error. With --json,
standard output is one JSON document, or empty if the command fails ("verify"
prints the faults that it found). The exit status is 0 for success, 1 for a
failure, 2 for wrong usage and 130 after Ctrl-C.

"cinic-shard --install-completion" lets the Tab key complete commands and
options in bash, zsh, fish and PowerShell, from the next terminal on.
"""

_EXAMPLES = "Examples:\n"
"""The last part of a command's docstring; its lines are printed unchanged."""

_HYPHEN = "\u2011"
"""A hyphen at which no line ends; printed as the usual one."""


class Command(TyperCommand):
    """A command with plain help."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the arguments, the required options and a hint at the others."""
        pieces: list[str] = []
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                pieces.append(f"{param.metavar}" if param.required else f"[{param.metavar}]")
            elif param.required:
                pieces.append(f"{param.opts[0]} {param.metavar}")
        return [*pieces, "[OPTIONS]"]

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the description, arguments, options and examples."""
        text, _, examples = (self.help or "").partition(_EXAMPLES)
        self.format_usage(ctx, formatter)
        _write_text(formatter, text)
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            if rows := _rows(self.get_params(ctx), kind):
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=26)
        lines = textwrap.indent(textwrap.dedent(examples.rstrip()), "  ")
        formatter.write(f"\n{_EXAMPLES}{lines}\n")
        _restore_hyphens(formatter)


class Commands(TyperGroup):
    """The commands in groups. Usage errors hide secrets in URLs, and suggest what was meant."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the groups of commands and the general options."""
        self.format_usage(ctx, formatter)
        _write_text(formatter, self.help or "")
        width = max(map(len, self.commands))
        for title, commands in groupby(self.commands.items(), lambda item: _group(item[1])):
            with formatter.section(title):
                for name, command in commands:
                    line = (command.help or "").partition("\n")[0]
                    formatter.write(f"  {name:<{width}}  {_plain(line).rstrip('.')}\n")
        with formatter.section("Options"):
            formatter.write_dl(_rows(self.get_params(ctx), "option"))
        formatter.write(f"\n{_EXAMPLES}{_FIRST_COMMANDS}\n{_EPILOG}")
        _restore_hyphens(formatter)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return what follows the name of the program."""
        return ["COMMAND", "[OPTIONS]"]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse as Typer does; reject empty arguments."""
        if not args and not ctx.resilient_parsing:
            typer.echo(_FIRST_STEPS, err=True, nl=False)
            raise typer.Exit(2)
        # An unset variable of the shell. As a path, it would be the working folder.
        if any(not one or _is_empty_option(one) for one in args):
            raise _UsageError("an argument is empty; give a value, or leave the option out")
        with _better_messages():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Invoke as Typer does."""
        with _better_messages():
            return super().invoke(ctx)


def _group(command: Any) -> str:
    return str(command.rich_help_panel)


def _is_empty_option(argument: str) -> bool:
    name, equals, value = argument.partition("=")
    return name.startswith("--") and bool(equals) and not value


@contextmanager
def _better_messages() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        for argument in sys.argv:
            error.message = error.message.replace(argument, without_secrets(argument))
        error.message = text_without_secrets(error.message)
        if similar := getattr(error, "possibilities", None):  # options
            error.message += f". Did you mean {', '.join(similar)}?"
            error.possibilities = None
        raise


def _write_text(formatter: Any, text: str) -> None:
    for paragraph in text.strip().split("\n\n"):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_plain(" ".join(paragraph.split())))


def _rows(params: Any, kind: str) -> list[tuple[str, str]]:
    """Return names and descriptions of the arguments, or of the options."""
    shown = [one for one in params if one.param_type_name == kind]
    return [(_names(one), _description(one)) for one in shown if not getattr(one, "hidden", False)]


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar)
    names = ", ".join(sorted(param.opts, key=len))
    return names if param.is_flag or not param.metavar else f"{names} {param.metavar}"


def _description(param: Any) -> str:
    text = _plain(param.help or "")
    if param.param_type_name == "option" and param.required:
        return f"{text} Required."
    if isinstance(param.default, str | int | float) and not isinstance(param.default, bool):
        return f"{text.rstrip('.')}; default: {param.default}."
    return text


def _plain(text: str) -> str:
    return text.replace("`", "").replace("-", _HYPHEN)


def _restore_hyphens(formatter: Any) -> None:
    formatter.buffer[:] = [part.replace(_HYPHEN, "-") for part in formatter.buffer]
