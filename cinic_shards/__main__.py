"""Where the command starts, also as ``python -m cinic_shards``.

Workers that are spawned import this file anew: it must not bring the command line with it.
"""


def main() -> None:
    """Run the command ``cinic-shard``."""
    from cinic_shards.cli import main as run

    run()


if __name__ == "__main__":
    main()
