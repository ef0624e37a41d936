"""Which of ImageNet's synsets belong to which class of CINIC-10.

``synsets.csv`` says so, a row for each synset of a class. Its facts are those of the list that
CINIC-10's authors publish, ``synsets-to-cifar-10-classes.txt`` of
https://github.com/BayesWatch/cinic-10, each pair once: that list names two synsets twice. One
synset, n03770679 (minivan), is in two classes there, and so it is here.
"""

import csv
from functools import cache
from importlib.resources import files

from cinic_shards.cinic.cifar10 import CLASSES


@cache
def synsets_by_class() -> dict[str, tuple[str, ...]]:
    """Class -> its synsets (WordNet ids such as ``n02691156``), sorted; classes in label order."""
    found: dict[str, list[str]] = {name: [] for name in CLASSES}
    table = (files("cinic_shards.cinic") / "synsets.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        found[row["class"]].append(row["synset"])
    return {name: tuple(sorted(synsets)) for name, synsets in found.items()}
