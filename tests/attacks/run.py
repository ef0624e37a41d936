"""Run the attacks of ``attacks.py`` on the package, each in a separate process.

    python -m tests.attacks.run [--seconds S] [NAME ...]

Prints a JSON line for each attack and entry point: the outcome, the seconds that it took, and how
much the peak memory of the process has grown so far. Without names, runs all attacks. With
``--seconds``, each test of test_properties.py then runs for S seconds on files that hypothesis
changes, with one test per core at a time, and prints a line too. Exits with 1 if there is any
problem.
"""

import argparse
import io
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.cli.inspect import info
from cinic_shards.errors import CinicShardsError
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.options import usable_cores
from cinic_shards.read.subset import Subset
from cinic_shards.view.stats import stats
from cinic_shards.write.pack import pack
from cinic_shards.write.select import select as select_dataset
from cinic_shards.write.unpack import unpack
from tests.attacks.attacks import ATTACKS, OUTSIDE, Attack, change, good_images
from tests.support import ROOT
from tests.support.odd_pngs import SIGNATURE

MAX_SECONDS = 5.0
"""Limit on a processor that compresses 32 MiB of zeros in ``_USUAL_SECONDS``; slower processors get
more."""
MAX_MEGABYTES = 300.0
"""Limit, plus 3 bytes per pixel of the largest image that may be decoded."""
MAX_MESSAGE = 50_000
"""Characters of an error message, which may list some hundred images."""
_PATIENCE_SECONDS = 60.0
_USUAL_SECONDS = 0.25

Result = dict[str, Any]
"""``way``: the entry point; ``came``: the outcome: accepted, refused or wrong; ``said``: the error
message; ``seconds``; ``megabytes``."""

_FILE = re.compile(r"train/[^/.][^/]*/[^/.]+\.png")


class WrongError(Exception):
    """The attack did harm."""


class RefusedError(Exception):
    """A fault that ``verify`` found: it returns faults instead of raising."""


# --- Entry points -----------------------------------------------------------------------------


def _load(place: Path) -> None:
    good = {image.rgb.astype("u1").tobytes() for image in good_images() if image.rgb is not None}
    for batch in ShardLoader(place / "dataset", shuffle=False, workers=1):
        for image in batch.images.permute(0, 2, 3, 1).numpy():
            if image.any() and image.tobytes() not in good:
                raise WrongError("wrong pixels were delivered")


def _verify(place: Path) -> None:
    if faults := verify(place / "dataset", workers=1).faults:
        raise RefusedError(faults[0])


def _quick(place: Path) -> None:
    if faults := verify(place / "dataset", workers=1, quick=True).faults:
        raise RefusedError(faults[0])


def _unpack(place: Path) -> None:
    unpack(place / "dataset", place / "out" / "unpacked", workers=1)


def _reindex(place: Path) -> None:
    reindex(place / "out" / "reindexed", workers=1)


def _info(place: Path) -> None:
    _printed(place, as_json=True)
    for letter in _printed(place, as_json=False):
        if not (letter.isprintable() or letter == "\n"):
            raise WrongError(f"{letter!r} came to the terminal")


def _duplicates(place: Path) -> None:
    _printed(place, as_json=True, duplicates=True)
    _printed(place, as_json=False, duplicates=True)


def _printed(place: Path, *, as_json: bool, duplicates: bool = False) -> str:
    """Return the output of ``cinic-shard info``."""
    data = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(data, "utf-8")) as out:
        info(str(place / "dataset"), duplicates, as_json)
        out.flush()
    return data.getvalue().decode()


def _pack(place: Path) -> None:
    pack(place / "tree", place / "out" / "packed", workers=1, warn=lambda text: None)


def _select(place: Path) -> None:
    out = place / "out" / "selected"
    half = Subset(fraction=0.5)
    select_dataset(place / "dataset", out, subset=half, workers=1, warn=lambda text: None)


def _stats(place: Path) -> None:
    stats(place / "dataset", histograms=True, workers=1)


WAYS: dict[str, Callable[[Path], None]] = {
    "load": _load,
    "verify": _verify,
    "quick": _quick,
    "unpack": _unpack,
    "reindex": _reindex,
    "info": _info,
    "duplicates": _duplicates,
    "select": _select,
    "stats": _stats,
    "pack": _pack,
}


# --- One attack -------------------------------------------------------------------------------


def run(attack: Attack) -> Iterator[Result]:
    """Run one attack on every entry point, in a child process."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        ways = _prepare(Path(folder), attack)
        is_large = attack.num_pixels > 2**20
        while ways:
            num_ended = 0
            # The memory of a large image would count for the next entry point too.
            together = ways[:1] if is_large else ways
            for result in _in_a_child(Path(folder), together, is_large):
                num_ended += 1
                yield result
            ways = ways[num_ended:]


def _prepare(place: Path, attack: Attack) -> list[str]:
    """Write the files that the entry points need; return the names of those that apply."""
    attack.make(place / "dataset")
    (place / "out").mkdir()
    attack.make(place / "out" / "reindexed")
    if not attack.png:
        return [way for way in WAYS if way != "pack"]
    (place / "tree" / "train" / "cat").mkdir(parents=True)
    (place / "tree" / "train" / "cat" / "a.png").write_bytes(attack.png)
    return list(WAYS)


def _in_a_child(place: Path, ways: list[str], quick: bool) -> Iterator[Result]:
    """Yield the results of these entry points, up to one that the process does not survive."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        base = _peak_bytes()  # the peak of a new process is its current memory
        with open(writing, "w") as out:
            for way in ways:
                print(json.dumps(one_way(place, way, base, quick)), file=out, flush=True)
        os._exit(0)
    os.close(writing)
    try:
        with open(reading) as results:
            for way in ways:
                is_there = select.select([results], [], [], _PATIENCE_SECONDS)[0]
                if line := results.readline() if is_there else "":
                    yield json.loads(line)
                    continue
                yield {
                    "way": way,
                    "came": "wrong",
                    "said": "the process died" if is_there else "it hangs",
                    "seconds": _PATIENCE_SECONDS,
                    "megabytes": 0.0,
                }
                return
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def one_way(place: Path, way: str, base: int = 0, quick: bool = False) -> Result:
    """Run an attack on one entry point."""
    before = _listed(place)
    start, start_of_work = time.monotonic(), time.process_time()
    said = ""
    try:
        WAYS[way](place)
        came = "accepted"
    except (CinicShardsError, RefusedError) as error:
        came, said = "refused", str(error)
    except BaseException as error:
        came, said = "wrong", f"{type(error).__name__}: {error}"
    # Other programs lengthen the elapsed time, but not the processor time.
    seconds = time.monotonic() - start
    seconds = min(seconds, max(time.process_time() - start_of_work, seconds / 4))
    megabytes = (_peak_bytes() - base) / 1e6
    if len(said) > MAX_MESSAGE:
        came, said = "wrong", f"a message of {len(said):,} letters: {said[:100]}"
    if came != "wrong" and (harm := _harm(place, before, way, came, quick)):
        came, said = "wrong", harm
    return {
        "way": way,
        "came": came,
        "said": said[:300].encode("ascii", "backslashreplace").decode(),
        "seconds": round(seconds, 3),
        "megabytes": round(megabytes, 1),
    }


def _peak_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _listed(place: Path) -> set[str]:
    """List all files and modes, except those that may be made: an unpacked tree, a dataset."""
    found = set()
    for folder, folders, files in os.walk(place):
        for name in folders + files:
            path = Path(folder, name)
            below = path.relative_to(place).as_posix()
            if not below.startswith(("out/unpacked", "out/packed", "out/selected")):
                found.add(f"{below} {path.lstat().st_mode:o}")
    return found


_MADE = {"pack": "packed", "select": "selected"}
"""Entry point -> the folder of the dataset that it makes."""


def _harm(place: Path, before: set[str], way: str, came: str, quick: bool) -> str:
    """Return a description of any harm, or an empty string; ``quick`` verifies no images."""
    for name in sorted(_listed(place) ^ before):
        if not (way == "reindex" and name.startswith("out/reindexed/manifest.json ")):
            return f"changed outside the output: {name}"
    if any(name.startswith(Path(OUTSIDE).name) for name in os.listdir(Path(OUTSIDE).parent)):
        return f"made {OUTSIDE}"
    if way == "reindex" and came == "accepted":
        faults = verify(place / "out" / "reindexed", workers=1, quick=quick).faults
        return f"its new manifest is wrong: {faults[0]}" if faults else ""
    if way in _MADE:
        made = place / "out" / _MADE[way]
        if came == "accepted":
            faults = verify(made, workers=1, quick=quick).faults
            return f"the dataset that it made is damaged: {faults[0]}" if faults else ""
        return "it failed, but left files in the output" if made.exists() else ""
    return _harm_in_the_tree(place / "out" / "unpacked") if way == "unpack" else ""


def _harm_in_the_tree(root: Path) -> str:
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder, name)
            below = path.relative_to(root).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                return f"unpacked something that is not a file: {below}"
            if name in files and not _FILE.fullmatch(below):
                return f"unpacked as {below!r}"
            if name in files and not path.read_bytes().startswith(SIGNATURE):
                return f"unpacked something that is not a PNG: {below!r}"
            if name in folders and below.startswith("_"):
                return f"left {below!r}"
    return ""


def allowed_seconds() -> float:
    """Return ``MAX_SECONDS`` scaled to this processor, by the best of three measurements."""
    tries = []
    for _ in range(3):
        start = time.process_time()
        zlib.compress(bytes(2**25))
        tries.append(time.process_time() - start)
    return MAX_SECONDS * max(1.0, min(tries) / _USUAL_SECONDS)


def problem(attack: Attack, result: Result, max_seconds: float) -> str:
    """Return the problem with a result, or an empty string."""
    if result["came"] == "wrong":
        return str(result["said"])
    if result["way"] in attack.refused_by and result["came"] != "refused":
        return "accepted, expected to be refused"
    if result["seconds"] > max_seconds:
        return f"{result['seconds']} s, expected at most {max_seconds:.1f}"
    limit = MAX_MEGABYTES + 3e-6 * attack.num_pixels
    if result["megabytes"] > limit:
        return f"{result['megabytes']} MB, expected at most {limit:.1f}"
    return ""


def warm_up() -> None:
    """Load modules and compile kernels, so that this does not count for an attack."""
    good = Attack(change().write, frozenset(), good_images()[0].png)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        for way in _prepare(Path(folder), good):
            result = one_way(Path(folder), way)
            if result["came"] != "accepted":
                sys.exit(f"the dataset that attacks start from is not accepted: {result}")


def fuzz(seconds: float) -> Iterator[Result]:
    """Run each test of the parsers for the given number of seconds."""

    def pytest(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
            cwd=ROOT,
            env={**os.environ, "CINIC_PROPERTY_SECONDS": str(seconds)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_test(test: str) -> Result:
        done = pytest(test)
        said = done.stdout[-2000:] if done.returncode else ""
        return {"fuzzed": test.partition("::")[2], "problem": said, "seconds": seconds}

    listed = pytest("--collect-only", "tests/attacks/test_properties.py").stdout.splitlines()
    with ThreadPoolExecutor(usable_cores()) as threads:
        yield from threads.map(run_test, [line for line in listed if "::" in line])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="attacks to run; default: all")
    parser.add_argument("--seconds", type=float, help="fuzz each parser for this long; default: no")
    args = parser.parse_args()
    warm_up()
    max_seconds = allowed_seconds()
    num_problems = 0
    for name in args.names or ATTACKS:
        for result in run(ATTACKS[name]):
            said = problem(ATTACKS[name], result, max_seconds)
            num_problems += bool(said)
            print(json.dumps({"attack": name, "problem": said, **result}), flush=True)
    for result in fuzz(args.seconds) if args.seconds else ():
        num_problems += bool(result["problem"])
        print(json.dumps(result), flush=True)
    sys.exit(num_problems > 0)


if __name__ == "__main__":
    main()
