"""Do the notebooks' three products have the right images, as datasets of their own?

Train and valid joined beside test, the CIFAR-10 part and the ImageNet part, by ``select`` from
shards of each encoding: counted, every byte and image verified, and compared with the same part of
the tree, by key and by bytes, of blocks by pixels. From ``png`` the shards' bytes must be those
that packing that part gives.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from claim import COMMAND, Claim, digests

from cinic_shards.codec import ENCODINGS
from cinic_shards.format import MANIFEST_NAME
from cinic_shards.read.dataset import Dataset


def joined(key: str) -> str:
    """A key where valid is part of train."""
    split, _, rest = key.partition("/")
    return f"{'train' if split in ('train', 'valid') else split}/{rest}"


def is_cifar(key: str) -> bool:
    """Whether a name is one of CIFAR-10's images."""
    return key.rpartition("/")[2].startswith("cifar")


PRODUCTS: dict[str, tuple[list[str], Callable[[str], str | None]]] = {
    "train and valid joined": (["--split", "train=train+valid,test"], joined),
    "CIFAR-10 part": (["--origin", "cifar"], lambda key: key if is_cifar(key) else None),
    "ImageNet part": (["--origin", "imagenet"], lambda key: None if is_cifar(key) else key),
}
"""The command's options, and the new key of an image, if it is in the product."""


def part_of(tree: Path, out: Path, new_key: Callable[[str], str | None]) -> dict[str, int]:
    """Links to the files of a product; how many each split has."""
    counts: dict[str, int] = {}
    for path in tree.glob("*/*/*.png"):
        key = new_key(path.relative_to(tree).as_posix().removesuffix(".png"))
        if key is not None:
            link = out / f"{key}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
            split = key.partition("/")[0]
            counts[split] = counts.get(split, 0) + 1
    return dict(sorted(counts.items()))


def run(*command: object) -> str:
    """What a command prints."""
    words = [str(COMMAND), *map(str, command)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        shards = {kind: claim.pack(kind, "--encoding", kind) for kind in ENCODINGS}
        counts, seconds, wrong = {}, {}, []
        for name, (options, new_key) in PRODUCTS.items():
            tree = claim.scratch / "part"
            tree.mkdir()
            counts[name] = part_of(claim.tree, tree, new_key)
            packed = digests(claim.pack("packed", tree=tree))
            for kind, whole in shards.items():
                out = claim.scratch / "selected"
                start = time.perf_counter()
                run("select", whole, out, *options, "--quiet")
                seconds[f"{name}, {kind}"] = round(time.perf_counter() - start, 1)
                manifest = Dataset(out).manifest
                found = {split.name: split.num_samples for split in manifest.splits}
                checked = json.loads(run("verify", out, "--against", tree, "--json"))
                bytes_ = digests(out)
                has_bytes = kind != "png" or all(
                    bytes_[file] == packed[file] for file in packed if file != MANIFEST_NAME
                )
                if not (found == counts[name] and checked["is_whole"] and has_bytes):
                    wrong.append(f"{name}, {kind}")
                shutil.rmtree(out)
            shutil.rmtree(tree)
            shutil.rmtree(claim.scratch / "packed")
        claim.report(
            figure="; ".join(
                f"{name}: {sum(count.values()):,} {count}" for name, count in counts.items()
            ),
            bar="all of each, every one the tree's, from each encoding; bytes from png as packed",
            holds=not wrong,
            wrong=wrong,
            seconds=seconds,
        )


if __name__ == "__main__":
    main()
