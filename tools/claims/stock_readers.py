"""Do stock webdataset and datasets read the shards: the tree's samples and labels, no extra row?

webdataset: ``WebDataset(...).decode("pil").to_tuple("png", "cls", "__key__")``, pixels compared
with Pillow's of the tree's file. datasets: ``load_dataset("webdataset", data_dir=...)``, the PNG's
bytes compared. Then both again with ``--sidecars cls,json``: every provenance value compared.
"""

import glob
from pathlib import Path
from typing import Any

import numpy as np
from claim import Claim
from PIL import Image

from cinic_shards.format.provenance import parse_stem
from cinic_shards.loader.bench import import_torchvision


def expected_labels(tree: Path) -> dict[str, int]:
    """Key -> label, by ImageFolder's rule."""
    classes = sorted({path.name for path in tree.glob("*/*") if path.is_dir()})
    return {
        str(path.relative_to(tree))[:-4]: classes.index(path.parent.name)
        for path in tree.glob("*/*/*.png")
    }


def check_webdataset(tree: Path, shards: Path, expected: dict[str, int], json: bool) -> int:
    """Rows that are as expected; raises at one that is not."""
    import webdataset

    urls = sorted(glob.glob(str(shards / "*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=False)
    seen = set()
    if json:
        for key, label, values in dataset.decode().to_tuple("__key__", "cls", "json"):
            check_row(key, label, expected, values)
            seen.add(key)
    else:
        for image, label, key in dataset.decode("pil").to_tuple("png", "cls", "__key__"):
            check_row(key, label, expected)
            with Image.open(tree / f"{key}.png") as original:
                if not np.array_equal(np.asarray(image), np.asarray(original.convert("RGB"))):
                    raise AssertionError(f"{key}: other pixels")
            seen.add(key)
    return len(seen)


def check_datasets(tree: Path, shards: Path, expected: dict[str, int], cache: Path) -> int:
    """Rows that are as expected; raises at one that is not."""
    import datasets

    datasets.disable_progress_bars()
    splits = datasets.load_dataset("webdataset", data_dir=str(shards), cache_dir=str(cache))
    seen = set()
    for split in splits.values():
        for row in split.cast_column("png", datasets.Image(decode=False)):
            check_row(row["__key__"], row["cls"], expected, row.get("json"))
            if row["png"]["bytes"] != (tree / f"{row['__key__']}.png").read_bytes():
                raise AssertionError(f"{row['__key__']}: other bytes")
            seen.add(row["__key__"])
        if len(seen) > len(expected):
            raise AssertionError("more rows than images")
    if sum(map(len, splits.values())) != len(seen):
        raise AssertionError("a row twice")
    return len(seen)


def check_row(
    key: str, label: int, expected: dict[str, int], values: dict[str, Any] | None = None
) -> None:
    """Compare one row with the tree's file names."""
    if expected.get(key) != label:
        raise AssertionError(f"{key}: label {label}, expected {expected.get(key)}")
    if values is not None:
        origin = parse_stem(key.rpartition("/")[2])
        truth = {
            "key": key,
            "class": key.split("/")[1],
            "label": label,
            "origin": origin.origin,
            "synset": origin.synset,
            "number": origin.number,
        }
        if values != truth:
            raise AssertionError(f"{key}: {values}, expected {truth}")


def main() -> None:
    """Run the claim."""
    import_torchvision()  # datasets looks for it, and a CPU build of torch needs our help there
    with Claim(__doc__ or "") as claim:
        expected = expected_labels(claim.tree)
        plain = claim.pack("plain")
        with_json = claim.pack("json", "--sidecars", "cls,json")
        counts = {
            "webdataset": check_webdataset(claim.tree, plain, expected, json=False),
            "datasets": check_datasets(claim.tree, plain, expected, claim.scratch / "cache1"),
            "webdataset, json": check_webdataset(claim.tree, with_json, expected, json=True),
            "datasets, json": check_datasets(
                claim.tree, with_json, expected, claim.scratch / "cache2"
            ),
        }
        claim.report(
            figure=counts,
            bar=f"{len(expected):,} rows each, every label, key and value as in the tree",
            holds=set(counts.values()) == {len(expected)},
        )


if __name__ == "__main__":
    main()
