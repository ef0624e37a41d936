"""The command ``cinic-shard``: arguments, printing and exit codes."""

from cinic_shards.cli import cinic, shards, sources, views
from cinic_shards.cli.console import app, main

__all__ = ["app", "cinic", "main", "shards", "sources", "views"]
