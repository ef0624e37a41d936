"""An iterator that is abandoned leaves nothing behind."""

import gc
import itertools
import os
import random
import threading

from cinic_shards import Augment, ShardLoader
from cinic_shards.codec import ENCODINGS
from tests.acceptance.trees import Record, Tree

ITERATORS = 1000


def counts() -> tuple[int, int]:
    """Threads and file descriptors of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def leave(loader: ShardLoader, num_batches: int, way: str) -> None:
    """Begin an epoch, and do not end it."""
    if way == "drop":
        iterator = iter(loader)
        for _ in range(num_batches):
            next(iterator)
        del iterator
    elif way == "break":
        for number, _ in enumerate(loader):
            if number >= num_batches:
                break
    elif way == "raise":
        try:
            for number, _ in enumerate(loader):
                if number >= num_batches:
                    raise RuntimeError("in the loop")
        except RuntimeError:
            pass
    elif way == "close":
        generator = loader.iterate_share(0, 1)
        for _ in itertools.islice(generator, num_batches):
            pass
        generator.close()


def test_abandoned_iterators_leave_nothing(small_tree: Tree, record_property: Record) -> None:
    """Do a thousand abandoned iterators leave a thread or a file descriptor?

    Of each encoding in turn, with caches and without, each after a random number of batches.
    """
    loaders = []
    for encoding in ENCODINGS:
        shards = small_tree.packed(encoding)
        loaders.append(ShardLoader(shards, batch_size=64, augment=Augment()))
        loaders.append(ShardLoader(shards, batch_size=64, cache="ram", device="cpu"))
    for loader in loaders:
        next(iter(loader))
    gc.collect()
    before = most = counts()
    chance = random.Random(0)
    for number in range(ITERATORS):
        loader = loaders[number % len(loaders)]
        num_batches = chance.randrange(min(len(loader), 40))
        leave(loader, num_batches, chance.choice(["drop", "break", "raise", "close"]))
        most = max(most, counts())
    gc.collect()
    record_property("iterators", ITERATORS)
    record_property("threads_and_descriptors", {"before": before, "most": most})
    assert counts() == before
