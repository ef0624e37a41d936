r"""How many bytes does an image take, and how long does packing take, in each format?

One split of an ImageFolder tree. Ours: every encoding, with default workers. Stock webdataset's
ShardWriter (png and cls, in one process), as it comes and with ``mtime=0``. FFCV's
DatasetWriter with raw pixels (its only lossless mode) and as many workers as there are cores.
MosaicML Streaming's MDSWriter: the PNG files, the pixels, and the pixels with zstd. Each in a
fresh process; imports do not count; before each, every file is read once. Labels are stored by all.

    python benchmarks/bench_size.py --tree ./cinic --out size.jsonl \
      --python ffcv=./venv-ffcv/bin/python --python mds=./venv-mds/bin/python

FFCV and Streaming do not install beside this package: ``--python`` names the Python of an
environment that has them. A contender whose library is missing is left out, and says so.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Only the standard library here: this file also runs in environments without the package.
Samples = list[tuple[Path, int]]


def samples_of(folder: Path) -> Samples:
    """The PNGs of a split and their labels, in ImageFolder's order."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(path, label) for label, name in enumerate(classes) for path in sorted(name.iterdir())]


def ours(encoding: str) -> Callable[[Path, Path], float]:
    """``cinic-shard pack``."""

    def write(folder: Path, out: Path) -> float:
        from cinic_shards.pack import PackOptions, pack

        tree = out / "tree"
        tree.mkdir()
        (tree / folder.name).symlink_to(folder)
        start = time.perf_counter()
        pack(tree, out / "shards", PackOptions(encoding=encoding))
        return time.perf_counter() - start

    return write


def webdataset(**options: Any) -> Callable[[Path, Path], float]:
    """ShardWriter."""

    def write(folder: Path, out: Path) -> float:
        from webdataset import ShardWriter

        start = time.perf_counter()
        with ShardWriter(str(out / "%05d.tar"), maxcount=10240, verbose=0, **options) as writer:
            for path, label in samples_of(folder):
                writer.write({"__key__": path.stem, "png": path.read_bytes(), "cls": label})
        return time.perf_counter() - start

    return write


def ffcv(folder: Path, out: Path) -> float:
    """DatasetWriter, raw pixels."""
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    samples = samples_of(folder)

    class Images:
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, position: int) -> tuple[Any, int]:
            path, label = samples[position]
            return np.asarray(Image.open(path).convert("RGB")), label

    start = time.perf_counter()
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer = DatasetWriter(str(out / "split.beton"), fields, num_workers=os.cpu_count() or 1)
    writer.from_indexed_dataset(Images())
    return time.perf_counter() - start


def mds(kind: str) -> Callable[[Path, Path], float]:
    """MDSWriter of "files" (the PNGs), "pixels", or pixels with "zstd"."""

    def write(folder: Path, out: Path) -> float:
        import numpy as np
        import torch
        from PIL import Image

        # A CPU build of torch lacks them, and Streaming imports torchvision, which wants them.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from streaming import MDSWriter

        start = time.perf_counter()
        with MDSWriter(
            out=str(out / "mds"),
            columns={"image": "bytes" if kind == "files" else "ndarray:uint8", "label": "int"},
            compression="zstd:1" if kind == "zstd" else None,
        ) as writer:
            for path, label in samples_of(folder):
                if kind == "files":
                    image: Any = path.read_bytes()
                else:
                    image = np.asarray(Image.open(path).convert("RGB"))
                writer.write({"image": image, "label": label})
        return time.perf_counter() - start

    return write


CONTENDERS: dict[str, tuple[str, Callable[[Path, Path], float]]] = {
    "cinic-shards, png": ("cinic-shards", ours("png")),
    "cinic-shards, zstd": ("cinic-shards", ours("zstd")),
    "cinic-shards, raw": ("cinic-shards", ours("raw")),
    "webdataset": ("webdataset", webdataset()),
    "webdataset, mtime=0": ("webdataset", webdataset(mtime=0)),
    "ffcv, raw": ("ffcv", ffcv),
    "mds, PNG files": ("mds", mds("files")),
    "mds, pixels": ("mds", mds("pixels")),
    "mds, pixels with zstd": ("mds", mds("zstd")),
}
"""Name -> the environment it runs in, and what writes a split's folder to another folder and
gives the seconds that it took."""


def bytes_in(folder: Path) -> int:
    """Of all files; links are not followed."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(python: str, name: str, folder: Path) -> dict[str, Any] | str:
    """A contender's line, or why there is none."""
    with tempfile.TemporaryDirectory() as out:
        if shutil.which(python) is None:
            return f"{python}: no such program"
        command = [python, __file__, "--contender", name, str(folder), out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip().rpartition("\n")[2]
        samples = samples_of(folder)
        size = bytes_in(Path(out))
        return {
            "contender": name,
            "bytes_per_image": round(size / len(samples), 1),
            "of_the_pngs": round(size / sum(path.stat().st_size for path, _ in samples), 3),
            "seconds": float(done.stdout.split()[-1]),
        }


def main() -> None:
    """Run all contenders and print a JSON line each."""
    if sys.argv[1:2] == ["--contender"]:
        name, folder, out = sys.argv[2:]
        print(round(CONTENDERS[name][1](Path(folder), Path(out)), 3))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="NAME: ffcv or mds"
    )
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    args = parser.parse_args()
    pythons = {"cinic-shards": sys.executable, "webdataset": sys.executable}
    pythons |= dict(item.split("=", 1) for item in args.python)
    folder = (args.tree / args.split).resolve()
    for name, (environment, _) in CONTENDERS.items():
        for path, _ in samples_of(folder):
            path.read_bytes()
        line = run(pythons.get(environment, sys.executable), name, folder)
        if isinstance(line, str):
            print(f"{name}: left out: {line}", file=sys.stderr)
        else:
            print(json.dumps(line), file=args.out, flush=True)


if __name__ == "__main__":
    main()
