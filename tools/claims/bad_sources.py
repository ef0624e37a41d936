"""Does each bad source of CINIC-10 give one clear message, status 1 or 2, and leave nothing?

For ``fetch``, ``pack`` of an archive, ``build``, ``contributors``' list and ``restore-cifar10``:
archives that are another one or truncated, a download that is not the file, a synset that is
missing, a contributor that no source has, and CIFAR-10 with images missing. Sources are drawn.
"""

import shutil
import tarfile
from pathlib import Path

from bad_input import is_clear, run
from claim import COMMAND, Claim
from make_demo_sources import SYNSETS, make_sources

from tests.support.servers import caddy

PHOTOS = 30
HEADER = "synset, image_num, cinic_set, class\n"


def cut(path: Path, out: Path) -> Path:
    """The first two thirds of a file."""
    data = path.read_bytes()
    out.write_bytes(data[: 2 * len(data) // 3])
    return out


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        folder = claim.scratch
        sources = folder / "sources"
        make_sources(sources, photos=PHOTOS)
        cifar, synsets = sources / "cifar-10-python.tar.gz", sources / "synsets"
        tree = folder / "CINIC-10.tar.gz"
        with tarfile.open(tree, "w:gz", compresslevel=1) as archive:
            archive.add(claim.tree, "CINIC-10")
        results: dict[str, bool] = {}
        messages: dict[str, str] = {}

        def check(name: str, out: Path, names: str, *command: object) -> None:
            before = set(folder.iterdir())
            status, message = run(COMMAND, *command)
            is_clean = not out.exists() and set(folder.iterdir()) == before
            results[name] = is_clear(status, message, names) and is_clean
            messages[name] = f"[{status}] {message.strip()[:300]}"

        out = folder / "out"

        def check_build(name: str, names: str, option: str, value: object) -> None:
            options = {"--cifar": cifar, "--imagenet": synsets, "--per-class": 9, option: value}
            parts = [part for pair in options.items() for part in pair]
            check(name, out, names, "build", out, "--quiet", *parts)

        check_build("build: another archive for CIFAR-10's", str(tree), "--cifar", tree)
        truncated = cut(cifar, folder / "truncated-cifar.tar.gz")
        check_build("build: CIFAR-10's archive truncated", str(truncated), "--cifar", truncated)
        fewer = folder / "fewer"
        shutil.copytree(synsets, fewer)
        for synset in SYNSETS["cat"]:
            (fewer / f"{synset}.tar").unlink()
        check_build("build: a class without its synsets", SYNSETS["cat"][0], "--imagenet", fewer)
        cut(synsets / f"{SYNSETS['dog'][0]}.tar", fewer / f"{SYNSETS['dog'][0]}.tar")
        check_build("build: a synset's tar truncated", SYNSETS["dog"][0], "--imagenet", fewer)
        rows = folder / "rows.csv"
        rows.write_text(f"{HEADER}{SYNSETS['dog'][0]}, 999999, train, dog\n")
        check_build("build: a contributor that no source has", "999999", "--contributors", rows)
        bad = folder / "bad.csv"
        bad.write_text(f"{HEADER}n02084071, 1, train, dog\nn0208, 2, train, dog\n")
        check_build("build: a list with a bad line", "line 3", "--contributors", bad)

        text = folder / "page.tar.gz"
        text.write_text("<html>not found</html>" * 999)
        check("pack: a page for an archive", out, str(text), "pack", text, out)
        truncated = cut(tree, folder / "truncated.tar.gz")
        check("pack: an archive truncated", out, str(truncated), "pack", truncated, out)

        served = folder / "served"
        served.mkdir()
        cut(tree, served / tree.name)
        fetched = folder / "fetched"
        fetched.mkdir()
        (folder / "web").mkdir()
        with caddy(folder / "web", served) as url:
            to = fetched / tree.name
            for name, file in (("another file", tree.name), ("no such file", "gone.tar.gz")):
                fetch = ("fetch", to, "--url", f"{url}/{file}", "--quiet")
                names = "6ee4d0c996905fe93221de577967a372" if file == tree.name else "gone.tar.gz"
                check(f"fetch: {name}", to, names, *fetch)

        two_splits = folder / "two-splits"  # a tree may hold all of CIFAR-10, but not in these
        select = (COMMAND, "select", claim.pack("shards"), two_splits, "--split", "train+test")
        assert run(*select)[0] == 0
        check("restore-cifar10: not all there", out, "missing", "restore-cifar10", two_splits, out)
        claim.report(
            figure=f"{sum(results.values())} of {len(results)} faults",
            bar="all",
            holds=all(results.values()),
            failed=[name for name, passed in results.items() if not passed],
            messages=messages,
        )


if __name__ == "__main__":
    main()
