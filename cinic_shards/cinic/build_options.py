"""What is to be built, and what a build did and left out."""

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

_MAX_WARNED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What determines the images that are built, beside the sources."""

    per_class: int = FULL_SIZE
    """Images of a class in a split: two ninths of them CIFAR-10's, the others photos."""
    seed: int = 0
    """Of the draw."""
    contributors: str | os.PathLike[str] | None = None
    """The list of a published CINIC-10's photos: those and no others, where they were."""
    allow_missing: bool = False
    """Go on with what there is where a class has too few photos, a tar is damaged, or a contributor
    is in no source."""

    def __post_init__(self) -> None:
        if not 1 <= self.per_class <= FULL_SIZE:
            raise OptionError(
                f"{self.per_class} images of a class in a split: expected 1 to {FULL_SIZE:,}, of "
                "which CIFAR-10's are two ninths"
            )
        if not 0 <= self.seed <= fmt.MAX_INTEGER:
            raise OptionError(f"seed {self.seed}: expected a number from 0 to 2**53 - 1")


@dataclass(slots=True)
class Built:
    """What was built, and everything that a user should know of it; nothing is left out silently.

    Texts begin with what they speak of: a tar, a member, a class, a row.
    """

    num_images: int = 0
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """Split -> class -> ``cifar10-train``, ``cifar10-test`` or ``imagenet`` -> images."""
    missing_tars: list[str] = field(default_factory=list)
    """Synsets of the classes whose tar is not there."""
    empty_tars: list[str] = field(default_factory=list)
    """Tars of 0 bytes."""
    unusable_tars: list[str] = field(default_factory=list)
    """Other tars that hold no photo or are damaged."""
    left_out_members: list[str] = field(default_factory=list)
    """Members of tars that are no photos."""
    failed_photos: list[str] = field(default_factory=list)
    """Photos that were drawn and cannot be decoded."""
    other_formats: list[str] = field(default_factory=list)
    """Photos whose file is no JPEG, but could be decoded."""
    in_two_classes: list[str] = field(default_factory=list)
    """Photos that are in two classes, because their synset is."""
    short_classes: list[str] = field(default_factory=list)
    """Classes with fewer photos than were asked for."""
    missing_rows: list[str] = field(default_factory=list)
    """Contributors that no source has."""
    manifest: Manifest | None = None
    """Of the shards, where shards were made."""

    def warnings(self) -> Iterator[str]:
        """What a user should know, a line for each kind, with the first few of each."""
        for label, found in (
            ("synsets without a tar", self.missing_tars),
            ("tars of 0 bytes, left out", self.empty_tars),
            ("tars that cannot be used, left out", self.unusable_tars),
            ("members of tars that are no photos, left out", self.left_out_members),
            ("photos that cannot be decoded", self.failed_photos),
            ("photos that are no JPEGs", self.other_formats),
            ("photos in two classes, as their synset is", self.in_two_classes),
            ("classes with fewer photos than asked for", self.short_classes),
            ("contributors that no source has", self.missing_rows),
        ):
            if found:
                yield f"{len(found):,} {label}: {some(found, _MAX_WARNED)}"

    def as_json(self) -> dict[str, Any]:
        """All of it, and what the pixels depend on beside the sources."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        del found["manifest"]
        libraries = {"cinic-shards": __version__, "pillow": PIL.__version__}
        return found | {"libraries": libraries}
