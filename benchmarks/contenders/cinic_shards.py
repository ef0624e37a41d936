"""This package: ``cinic-shard pack`` in each encoding, read by ShardLoader with default options."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.contenders.base import MEAN, STD, Batches, Contender, Reading


def build(encoding: str) -> Callable[[Path, Path], None]:
    """Build with ``cinic-shard pack``."""

    def write(split: Path, out: Path) -> None:
        from cinic_shards.write.pack import PackOptions, pack

        tree = out / "tree"
        tree.mkdir()
        link = tree / "train"
        link.symlink_to(split.resolve())
        pack(tree, out / "shards", PackOptions(encoding=encoding))
        link.unlink()
        tree.rmdir()

    return write


def epochs(out: Path, reading: Reading) -> Batches:
    """Open a ShardLoader."""
    from cinic_shards import Augment, ShardLoader

    return ShardLoader(
        f"{reading.url}/shards" if reading.url else out / "shards",
        batch_size=reading.batch_size,
        workers=reading.workers,
        augment=Augment(normalize=(MEAN, STD)) if reading.augmented else None,
        tail="short",
    )


CONTENDERS = [
    Contender(
        name=f"cinic-shards, {encoding}",
        build=build(encoding),
        epochs=epochs,
        modules=("cinic_shards", "torch"),
        workers=(1, 2, 4),
        streams=True,
    )
    for encoding in ("png", "zstd", "raw")
]
