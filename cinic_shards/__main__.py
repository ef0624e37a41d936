"""Entry point of the command, also for ``python -m cinic_shards``.

Spawned workers import this file again, so it does not import the command line at the top.
"""


def main() -> None:
    """Run the command ``cinic-shard``."""
    from cinic_shards.cli import main as run

    run()


if __name__ == "__main__":
    main()
