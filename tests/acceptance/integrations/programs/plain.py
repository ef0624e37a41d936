"""The batches that every trainer should see: ``plain.py SHARDS EPOCHS [WORLD_SIZE]``."""

import sys

from seen import make_loader, note

shards, epochs, world_size = [*sys.argv[1:], "1"][:3]
for rank in range(int(world_size)):
    loader = make_loader(shards, rank=rank, world_size=int(world_size))
    for _ in range(int(epochs)):
        for batch in loader:
            note(batch, rank)
