"""The command ``cinic-shard``: arguments, printing and exit codes."""

from cinic_shards.cli import cinic, inspect, load, write
from cinic_shards.cli.console import app, main

__all__ = ["app", "cinic", "inspect", "load", "main", "write"]

_GROUPS = {
    "Write": (write.pack, write.convert, write.unpack, write.select),
    "Inspect": (
        inspect.info, inspect.verify, inspect.reindex, inspect.stats, inspect.show, inspect.report,
    ),
    "CINIC-10": (cinic.fetch, cinic.build, cinic.restore_cifar10, cinic.contributors),
    "Load": (load.bench, load.warmup, load.cache),
}  # fmt: skip
"""The commands in the order of ``--help``."""

for _group, _commands in _GROUPS.items():
    for _command in _commands:
        app.command(_command.__name__.replace("_", "-"), rich_help_panel=_group)(_command)
