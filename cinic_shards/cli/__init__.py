"""The command ``cinic-shard``: arguments, printing and exit codes."""

from collections.abc import Callable

from cinic_shards.cli import cinic, export, inspect, load, options, parts, view, write
from cinic_shards.cli.console import app, main
from cinic_shards.cli.help import Command

__all__ = ["app", "cinic", "export", "inspect", "load", "main", "options", "parts", "view", "write"]

_GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Make and read": (
        write.pack, write.convert, write.select, parts.partition, export.export, write.unpack,
    ),
    "Look and check": (
        inspect.info, inspect.verify, view.show, view.report, inspect.stats, inspect.reindex,
    ),
    "CINIC-10": (cinic.fetch, cinic.build, cinic.restore_cifar10, cinic.contributors),
    "Tools": (load.bench, load.warmup, load.cache),
}  # fmt: skip
"""The commands in the order of ``--help``."""

for _group, _commands in _GROUPS.items():
    for _command in _commands:
        _name = _command.__name__.replace("_", "-")
        app.command(_name, cls=Command, rich_help_panel=_group)(_command)
