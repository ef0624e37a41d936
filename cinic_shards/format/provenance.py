"""The provenance of an image, read from its file name.

CINIC-10 names each file after its origin: ``cifar10-train-103`` (the authors' text also writes
``cifar-10-train-103``) is image 103 of CIFAR-10's train set, ``n02691156_4821`` is image 4821 of
ImageNet's synset n02691156. Any other name has the origin ``unknown``.
"""

import re
from typing import NamedTuple

from cinic_shards.errors import OptionError
from cinic_shards.options import did_you_mean

ORIGINS = ("unknown", "cifar10-train", "cifar10-test", "imagenet")
"""Origin names; a name's position is its code in an index (docs/format.md)."""

CIFAR10_SIZES = {"train": 50_000, "test": 10_000}
"""Images in each set of CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html)."""

# At most 18 digits: a number is stored as a signed 64-bit integer. Synset 0 in an index means none.
_CIFAR10 = re.compile(r"cifar-?10-(train|test)-([0-9]{1,18})", re.ASCII)
_IMAGENET = re.compile(r"n((?!00000000)[0-9]{8})_([0-9]{1,18})", re.ASCII)


class Provenance(NamedTuple):
    """Origin, synset and number of one image."""

    origin: str
    """A name from ``ORIGINS``."""
    synset: str = ""
    """WordNet id such as ``n02691156``; empty unless the origin is ``imagenet``."""
    number: int = -1
    """Number of the image in CIFAR-10's set or in its synset; -1 if unknown."""


UNKNOWN = Provenance("unknown")


def parse_stem(stem: str) -> Provenance:
    """Parse the provenance from a file name without ``.png``.

    A number beyond CIFAR-10's set, like any name that CINIC-10 does not use, gives ``UNKNOWN``.
    """
    if match := _IMAGENET.fullmatch(stem):
        return Provenance("imagenet", f"n{match[1]}", int(match[2]))
    if match := _CIFAR10.fullmatch(stem):
        number = int(match[2])
        if number < CIFAR10_SIZES[match[1]]:
            return Provenance(f"cifar10-{match[1]}", "", number)
    return UNKNOWN


def origins_named(name: str) -> tuple[str, ...]:
    """Return the origins that a user's name means; ``cifar`` or ``cifar10`` means both of CIFAR-10.

    Raises:
        OptionError: the name is unknown.
    """
    origin = re.sub(r"^cifar-?(10)?(?=-|$)", "cifar10", name)
    if origin == "cifar10":
        return "cifar10-train", "cifar10-test"
    if origin not in ORIGINS:
        known = ("cifar", "cifar-train", "cifar-test", "imagenet", "unknown")
        hint = did_you_mean(name, known)
        raise OptionError(f"no origin {name!r}; expected one of {', '.join(known)}{hint}")
    return (origin,)


CINIC10_LICENCE = (
    "the file names are CINIC-10's, which its authors publish under CC-BY-4.0 "
    "(https://datashare.ed.ac.uk/handle/10283/3192)"
)
"""The licence as far as file names show it."""

CINIC10_CITATION = (
    "Darlow L.N., Crowley E.J., Antoniou A., Storkey A.J. (2018) CINIC-10 is not ImageNet or "
    "CIFAR-10. Report EDI-INF-ANC-1802, arXiv:1810.03505."
)
"""The citation that CINIC-10's authors ask for."""
