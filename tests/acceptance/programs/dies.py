"""A rank that reads epochs until its server is gone; writes how long it waited, and the error."""

import json
import os
import sys
import time

from cinic_shards import ShardLoader
from cinic_shards.errors import CinicShardsError
from cinic_shards.store import open_store


def main() -> None:
    """Read until an error is raised."""
    path, out, options = sys.argv[1:]
    out = os.path.join(out, os.environ["RANK"])
    loader = ShardLoader(open_store(path, json.loads(options)), global_batch_size=64)
    said = {}
    last = time.monotonic()
    try:
        for epoch in range(1000):
            for step, _ in enumerate(loader):
                if epoch == 0 and step == 2:
                    open(f"{out}.begun", "w").close()
                time.sleep(0.001)
                last = time.monotonic()
    except CinicShardsError as error:
        waited = round(time.monotonic() - last, 1)
        said = {"waited_seconds": waited, "error": f"{type(error).__name__}: {error}"}
    with open(f"{out}.json", "w") as file:
        json.dump(said, file)


if __name__ == "__main__":
    main()
