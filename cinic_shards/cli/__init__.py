"""The command ``cinic-shard``: arguments, printing and exit codes."""

from cinic_shards.cli import cinic, inspect, load, write
from cinic_shards.cli.console import app, main

__all__ = ["app", "cinic", "inspect", "load", "main", "write"]
