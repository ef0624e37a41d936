"""Do a thousand abandoned iterators leave a thread or a file descriptor?

Of each encoding in turn, with caches and without: an iterator is made, used for a random number of
batches, and left in one of four ways: dropped, by break, by an exception in the loop, or closed.
"""

import itertools
import os
import random
import threading
import time

from claim import Claim

from cinic_shards import Augment, ShardLoader

ITERATORS = 1000


def counts() -> tuple[int, int]:
    """Threads and file descriptors of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def leave(loader: ShardLoader, num_batches: int, way: int) -> None:
    """Begin an epoch, and do not end it."""
    if way == 0:
        iterator = iter(loader)
        for _ in range(num_batches):
            next(iterator)
        del iterator
    elif way == 1:
        for number, _ in enumerate(loader):
            if number >= num_batches:
                break
    elif way == 2:
        try:
            for number, _ in enumerate(loader):
                if number >= num_batches:
                    raise RuntimeError("in the loop")
        except RuntimeError:
            pass
    else:
        generator = loader.iterate_share(0, 1)
        for _ in itertools.islice(generator, num_batches):
            pass
        generator.close()


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        loaders = []
        for encoding in ("png", "zstd", "raw"):
            shards = claim.pack(encoding, "--encoding", encoding)
            loaders.append(ShardLoader(shards, batch_size=64, augment=Augment()))
            loaders.append(ShardLoader(shards, batch_size=64, cache="ram", device="cpu"))
        for loader in loaders:
            next(iter(loader))
        before = counts()
        chance = random.Random(0)
        most = before
        start = time.perf_counter()
        for number in range(ITERATORS):
            loader = loaders[number % len(loaders)]
            leave(loader, chance.randrange(min(len(loader), 40)), chance.randrange(4))
            most = max(most, counts())
        claim.report(
            figure={"before": before, "after": counts(), "most": most},
            bar="after as before",
            holds=counts() == before,
            iterators=ITERATORS,
            seconds=round(time.perf_counter() - start),
        )


if __name__ == "__main__":
    main()
