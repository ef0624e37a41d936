"""Epochs from a folder or URL; prints ``batches HASH`` and ``rate IMAGES_A_SECOND`` for each.

    epochs.py PATH EPOCHS OPTIONS

OPTIONS are the store's. Hashes are of ids, labels and pixels after augmentation. Rates are of other
epochs: uint8 as stored, the first of which does not count.
"""

import hashlib
import json
import sys
import time

from cinic_shards import Augment, ShardLoader
from cinic_shards.loader.warmup import warm_up
from cinic_shards.store import open_store


def main() -> None:
    """Print the lines."""
    path, epochs, options = sys.argv[1:]
    warm_up()
    store = open_store(path, json.loads(options))
    loader = ShardLoader(store, batch_size=512, augment=Augment(), tail="short")
    for _ in range(int(epochs)):
        digest = hashlib.blake2b(digest_size=16)
        for batch in loader:
            for tensor in (batch.indices, batch.labels, batch.images):
                digest.update(tensor.contiguous().numpy().data)
        print("batches", digest.hexdigest(), flush=True)
    loader = ShardLoader(store, batch_size=512)
    for epoch in range(int(epochs) + 1):
        start = time.perf_counter()
        count = sum(len(batch.labels) for batch in loader)
        if epoch:
            print("rate", count / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
