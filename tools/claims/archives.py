"""Does packing a tar, a tar.gz and a zip give the shards of the tree, with one bounded file aside?

The tree is put into each kind of archive; each is packed, and so is the tree. SHA-256s of all files
are compared. A folder of 270,000 files never exists: what a job keeps on the disk beside its shards
is watched while it runs. Times are of one run each, the tree's first, from a warm page cache.
"""

import shutil
import tarfile
import threading
import time
import zipfile
from pathlib import Path

from claim import Claim, digests


def tar(path: Path, tree: Path) -> None:
    """A plain one."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tree, "CINIC-10")


def tar_gz(path: Path, tree: Path) -> None:
    """As CINIC-10 is published."""
    with tarfile.open(path, "w:gz", compresslevel=6, format=tarfile.GNU_FORMAT) as archive:
        archive.add(tree, "CINIC-10")


def zipped(path: Path, tree: Path) -> None:
    """Compressed: it cannot be read in place. Zip knows no time before 1980, such as a tar's 0."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for file in sorted(tree.glob("*/*/*")):
            archive.write(file, file.relative_to(tree))


KINDS = {"tree.tar": tar, "tree.tar.gz": tar_gz, "tree.zip": zipped}


class Watch:
    """The most that files beside the shards took, while a job ran."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.most_bytes = 0
        self.most_files = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            files = list(self.out.glob("_packing/*.spool"))
            self.most_files = max(self.most_files, len(files))
            sizes = [path.stat().st_size for path in files if path.exists()]
            self.most_bytes = max(self.most_bytes, sum(sizes))


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        tree = claim.tree
        png_bytes = sum(path.stat().st_size for path in tree.glob("*/*/*.png"))
        start = time.perf_counter()
        shards = claim.pack("shards")
        seconds = {"tree": time.perf_counter() - start}
        expected = digests(shards)
        bad, spools, sizes = [], {}, {}
        for name, make in KINDS.items():
            archive = claim.scratch / name
            make(archive, tree)
            sizes[name] = archive.stat().st_size
            with Watch(claim.scratch / "out") as watch:
                start = time.perf_counter()
                out = claim.pack("out", tree=archive)
                seconds[name] = time.perf_counter() - start
            spools[name] = watch.most_bytes
            if digests(out) != expected:
                bad.append(f"{name}: other SHA-256s")
            if watch.most_files > 1 or list(claim.scratch.rglob("*.spool")):
                bad.append(f"{name}: {watch.most_files} files aside, or one that was left")
            if watch.most_bytes > png_bytes:
                bad.append(f"{name}: {watch.most_bytes:,} bytes aside")
            shutil.rmtree(out)
            archive.unlink()
        claim.report(
            figure=f"{len(KINDS) - len(bad)} of {len(KINDS)} archives give the same "
            f"{len(expected)} SHA-256s, with at most {max(spools.values()) / 1e6:,.0f} MB aside",
            bar="all, in one file aside of at most the PNGs' bytes, which is gone afterwards",
            holds=not bad,
            seconds={name: round(value, 1) for name, value in seconds.items()},
            spool_bytes=spools,
            png_bytes=png_bytes,
            archive_bytes=sizes,
            bad=bad,
        )


if __name__ == "__main__":
    main()
