"""Options of a build, and its result."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import PIL

import cinic_shards.format as fmt
from cinic_shards._version import __version__
from cinic_shards.cinic.draw import FULL_SIZE
from cinic_shards.errors import OptionError, some
from cinic_shards.format import Manifest
from cinic_shards.options import checked

_MAX_WARNED = 5


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The options that, with the sources, determine the images that are built.

    Raises:
        OptionError: ``per_class`` or ``seed`` is out of range.
    """

    per_class: int = FULL_SIZE
    """Images of each class in each split, 1 to 9,000: two ninths from CIFAR-10, the rest photos."""
    seed: int = 0
    """Seed of the draw, 0 to 2**53 - 1."""
    contributors: str | os.PathLike[str] | None = None
    """List of a published CINIC-10's photos: use these photos only, in the splits and classes that
    it states."""
    allow_missing: bool = False
    """Build with what there is if a class has too few photos, a tar is damaged, or a contributor is
    in no source."""

    def __post_init__(self) -> None:
        if not 1 <= self.per_class <= FULL_SIZE:
            raise OptionError(
                f"{self.per_class} images of a class in a split: expected 1 to {FULL_SIZE:,}, "
                "two ninths of them from CIFAR-10"
            )
        if not 0 <= self.seed <= fmt.MAX_INTEGER:
            raise OptionError(f"seed {self.seed}: expected an integer from 0 to 2**53 - 1")


@dataclass(slots=True)
class Built:
    """The result of a build, with everything that was left out.

    Each text begins with its subject: a tar, a member, a class or a row.
    """

    num_images: int = 0
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """Split -> class -> ``cifar10-train``, ``cifar10-test`` or ``imagenet`` -> number of images."""
    missing_tars: list[str] = field(default_factory=list)
    """Synsets of the classes that have no tar."""
    empty_tars: list[str] = field(default_factory=list)
    """Tars of 0 bytes."""
    unusable_tars: list[str] = field(default_factory=list)
    """Other tars that hold no photo or are damaged, and why."""
    left_out_members: list[str] = field(default_factory=list)
    """Members of tars that are not photos, and why."""
    failed_photos: list[str] = field(default_factory=list)
    """Drawn photos that fail to decode, and why."""
    other_formats: list[str] = field(default_factory=list)
    """Decoded photos that are not JPEGs, and their format."""
    in_two_classes: list[str] = field(default_factory=list)
    """Photos that are in two classes because their synset is."""
    short_classes: list[str] = field(default_factory=list)
    """Classes with fewer photos than requested."""
    missing_rows: list[str] = field(default_factory=list)
    """Contributors that are in no source."""
    manifest: Manifest | None = None
    """The shards' manifest; None if a tree was built."""

    def warnings(self) -> Iterator[str]:
        """Yield a line for each non-empty category: its count and first five items."""
        for label, found in (
            ("synsets without a tar", self.missing_tars),
            ("tars of 0 bytes, left out", self.empty_tars),
            ("unusable tars, left out", self.unusable_tars),
            ("members of tars that are not photos, left out", self.left_out_members),
            ("photos that cannot be decoded", self.failed_photos),
            ("photos that are not JPEGs", self.other_formats),
            ("photos in two classes, because their synset is", self.in_two_classes),
            ("classes with fewer photos than requested", self.short_classes),
            ("contributors that are in no source", self.missing_rows),
        ):
            if found:
                yield f"{len(found):,} {label}: {some(found, _MAX_WARNED)}"

    def as_json(self) -> dict[str, Any]:
        """Return all fields but the manifest, and the versions of the libraries used."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        del found["manifest"]
        return found | {"libraries": libraries()}


def libraries() -> dict[str, str]:
    """Return name -> version of the libraries that the built images depend on."""
    return {"cinic-shards": __version__, "pillow": PIL.__version__}
