"""Entry point of the command, also for ``python -m cinic_shards``.

Spawned workers import this file again, so it does not import the command line at the top.
"""

import os
import signal


def main() -> None:
    """Run the command ``cinic-shard``."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        # Until the command line is imported: no traceback after Ctrl-C.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from cinic_shards.cli import main as run

    run()


if __name__ == "__main__":
    main()
