"""The command reference has the help of every command, at 80 columns."""

import re

from cli_reference import NAME, WIDTH, reference

from cinic_shards.cli import app

TEXT = reference()


def test_every_command_has_a_section() -> None:
    names = [one.name for one in app.registered_commands if not one.hidden]
    assert names
    assert re.findall(rf"^### {NAME} (\S+)$", TEXT, re.MULTILINE) == names
    assert re.findall(rf"^\$ {NAME} (\S+) --help$", TEXT, re.MULTILINE) == names


def test_every_group_has_a_heading() -> None:
    groups = dict.fromkeys(one.rich_help_panel for one in app.registered_commands)
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == list(groups)


def test_no_line_is_wider_than_a_terminal_of_80_columns() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > WIDTH] == []
