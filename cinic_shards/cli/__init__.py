"""The command ``cinic-shard``: arguments, printing and exit codes."""

from cinic_shards.cli import cinic, inspect, sources, write
from cinic_shards.cli.console import app, main

__all__ = ["app", "cinic", "inspect", "main", "sources", "write"]
