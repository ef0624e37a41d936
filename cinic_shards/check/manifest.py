"""Compare a manifest with its shards: every field is computed again from them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import cinic_shards.format as fmt
from cinic_shards.check.differences import differences
from cinic_shards.check.faults import Fault, Location
from cinic_shards.check.job import CheckedShard
from cinic_shards.check.sequence import full_size
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import few
from cinic_shards.format import Manifest, SplitInfo
from cinic_shards.write.facts import make_manifest

_FIRST = ["format", "version", "digest"]


def manifest_fault(problem: str) -> Fault:
    """Make a fault of the manifest."""
    return Fault(Location(fmt.MANIFEST_NAME), "manifest", problem)


def stated_seed(manifest: Manifest) -> int | None:
    """Return the seed of the packing order; None if the manifest states no valid one."""
    seed = manifest.options.get("seed")
    return seed if type(seed) is int and 0 <= seed <= fmt.MAX_INTEGER else None


def manifest_faults(
    data: bytes,
    manifest: Manifest,
    checked: Sequence[CheckedShard],
    *,
    seed: int | None,
    is_quick: bool,
) -> Iterator[Fault]:
    """Compare a manifest with its shards, all of them intact.

    Args:
        data: the manifest's file.
        manifest: the same, parsed.
        checked: its shards.
        seed: seed of the packing order; None if it is unknown, and not stated.
        is_quick: no image was decoded, so the pixel sums are compared only with what they imply.
    """
    formats = {(shard.encoding, shard.block_size) for shard in checked}
    sidecars = {shard.sidecars for shard in checked}
    if len(formats) > 1 or len(sidecars) > 1:
        for name, values in (("encodings or block sizes", formats), ("sidecars", sidecars)):
            if len(values) > 1:
                yield manifest_fault(f"its shards have different {name}: {sorted(values)}")
        return
    rebuilt = _rebuild(manifest, checked, seed, is_quick)
    stated = fmt.parse_json(data)
    expected = json.loads(rebuilt.to_bytes()) | {"digest": stated["digest"]}
    for problem in differences(stated, expected):
        yield manifest_fault(f"{problem} from its shards")
    if is_quick:
        yield from _num_pixels_faults(manifest, rebuilt)
    if list(stated)[: len(_FIRST)] != _FIRST:
        yield manifest_fault(f"its first fields are {fmt.shown(list(stated)[:3])}, not {_FIRST}")
    names = [split.name for split in manifest.splits]
    if names != sorted(names):
        yield manifest_fault(f"its splits are {fmt.shown(names)}, expected sorted names")
    yield from _class_faults(manifest, checked)


def _rebuild(
    manifest: Manifest, checked: Sequence[CheckedShard], seed: int | None, is_quick: bool
) -> Manifest:
    """Make the manifest again from its shards.

    Licence, citation, library versions and the parent dataset are for information, and are not in
    the shards: they are copied, if they have the right types.
    """
    encoding, block_size = manifest.encoding, manifest.block_size
    if checked:
        encoding, block_size = checked[0].encoding, checked[0].block_size
    rebuilt = make_manifest(
        [shard.facts for shard in checked if shard.facts is not None],
        manifest.classes,
        _options(manifest, checked, seed),
        encoding=ENCODINGS[encoding],
        block_size=block_size,
    )
    if is_quick:
        splits = map(_with_stated_pixels, rebuilt.splits, manifest.splits)
        rebuilt = replace(rebuilt, splits=tuple(splits))
    return replace(
        rebuilt,
        libraries={name: _text(version) for name, version in manifest.libraries.items()},
        licence=manifest.licence,
        citation=manifest.citation,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else "a version"


def _options(
    manifest: Manifest, checked: Sequence[CheckedShard], seed: int | None
) -> dict[str, Any]:
    size, is_certain = full_size(checked)
    stated = manifest.options.get("shard_size")
    if not is_certain and type(stated) is int and size <= stated <= fmt.MAX_INTEGER:
        size = stated
    options: dict[str, Any] = {} if seed is None else {"seed": seed}
    sidecars = list(checked[0].sidecars) if checked else []
    options |= {"shard_size": size, "sidecars": sidecars}
    parent = manifest.options.get("parent")
    return options | ({"parent": parent} if isinstance(parent, dict) else {})


def _with_stated_pixels(rebuilt: SplitInfo, stated: SplitInfo) -> SplitInfo:
    """Fill in what only decoding would show, as far as the manifest does not contradict itself."""
    sizes = rebuilt.image_sizes
    if sum(sizes.values()) < rebuilt.num_samples:  # shards with images of several sizes
        sizes = stated.image_sizes
        if sum(sizes.values()) != rebuilt.num_samples:
            sizes = rebuilt.image_sizes
    return replace(rebuilt, image_sizes=sizes, pixels=stated.pixels)


def _num_pixels_faults(manifest: Manifest, rebuilt: Manifest) -> Iterator[Fault]:
    """Compare the numbers of pixels with the image sizes."""
    for split, other in zip(manifest.splits, rebuilt.splits, strict=True):
        expected = sum(height * width * n for (height, width), n in other.image_sizes.items())
        if split.pixels.count != expected:
            yield manifest_fault(
                f"splits[{split.name}].num_pixels is {split.pixels.count}, expected {expected} "
                "from image_sizes"
            )


def _class_faults(manifest: Manifest, checked: Sequence[CheckedShard]) -> Iterator[Fault]:
    """Compare the classes that the manifest lists with those that occur."""
    classes = manifest.classes
    if classes != tuple(sorted(classes, key=str.encode)):
        yield manifest_fault(f"classes is {fmt.shown(classes)}, expected sorted names")
    stated = {shard.classes for shard in checked}
    expected = manifest.stated_classes
    if checked and stated != {expected}:
        found = few([fmt.shown(one) for one in sorted(stated, key=str)])
        yield manifest_fault(
            f"classes is {fmt.shown(classes)}; the indexes state {found}, "
            f"expected {fmt.shown(expected)}"
        )
