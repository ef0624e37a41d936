"""The batches that every trainer should see: ``plain.py SHARDS EPOCHS``."""

import sys

from seen import make_loader, note

loader = make_loader(sys.argv[1])
for _ in range(int(sys.argv[2])):
    for batch in loader:
        note(batch)
