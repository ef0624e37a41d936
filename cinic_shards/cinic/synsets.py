"""The ImageNet synsets of each class of CINIC-10.

They are in ``synsets.csv``, a row for each synset of a class. The data are those of the list that
CINIC-10's authors publish, ``synsets-to-cifar-10-classes.txt`` of
https://github.com/BayesWatch/cinic-10, without its duplicates: it names two synsets twice. One
synset, n03770679 (minivan), is in two classes, there as here.
"""

import csv
from functools import cache
from importlib.resources import files

from cinic_shards.cinic.cifar10 import CLASSES


@cache
def synsets_by_class() -> dict[str, tuple[str, ...]]:
    """Return class -> its sorted synsets (WordNet ids such as ``n02691156``), in label order."""
    found: dict[str, list[str]] = {name: [] for name in CLASSES}
    table = (files("cinic_shards.cinic") / "synsets.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        found[row["class"]].append(row["synset"])
    return {name: tuple(sorted(synsets)) for name, synsets in found.items()}
