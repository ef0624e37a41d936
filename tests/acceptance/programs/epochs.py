"""Epochs from a folder or URL; prints for each its images a second, and a hash of its batches.

    epochs.py PATH EPOCHS OPTIONS

OPTIONS are the store's. Hashes are of ids, labels and pixels after augmentation.
"""

import hashlib
import json
import sys
import time

from cinic_shards import Augment, ShardLoader
from cinic_shards.loader.warmup import warm_up
from cinic_shards.store import open_store


def main() -> None:
    """Print a line for each epoch."""
    path, epochs, options = sys.argv[1:]
    warm_up()
    store = open_store(path, json.loads(options))
    loader = ShardLoader(store, batch_size=512, augment=Augment(dtype="uint8"), tail="short")
    for _ in range(int(epochs)):
        digest = hashlib.blake2b(digest_size=16)
        count, start = 0, time.perf_counter()
        for batch in loader:
            count += len(batch.labels)
            for tensor in (batch.indices, batch.labels, batch.images):
                digest.update(tensor.contiguous().numpy().data)
        print(count / (time.perf_counter() - start), digest.hexdigest(), flush=True)


if __name__ == "__main__":
    main()
