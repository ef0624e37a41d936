"""Every command that writes, stopped at any moment, in folders where users' own files stand."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fault_proxy import FaultProxy, Faults
from make_demo_sources import make_sources

from cinic_shards import cli
from cinic_shards.cinic import cifar10
from tests.acceptance.trees import Record, Tree, differences
from tests.support.command import COMMAND
from tests.support.files import digests, write
from tests.support.processes import start_forked
from tests.support.servers import caddy

MINE = (
    "notes.txt", "out.partial", "out.tar.partial", "shard.tar.partial", "x.part.json",
    "_packing/notes.txt", "_packing/begin.json", "_unpacking/x", "_unpacking/lock",
    "manifest.json.partial", "out.unexpected", "cinic-shards-notes.spool", ".building/lock",
)  # fmt: skip
"""A user's files in the folder that holds the output, and in the output where it may hold any."""
LATER = ("notes.txt", "x.partial", "shard.tar.partial", "begin.json", "train-00000-of-00002.tar")
"""Files that a user puts into each folder for unfinished files after a job was stopped."""
COMPLETE = ("already holds a dataset", "already exists")
"""Messages of a command that is repeated although it had finished."""
BATCH_SIZE, PER_CLASS, PHOTOS = 90, 60, 160
"""A small CIFAR-10, and enough photos of each class."""
JOBS = ("pack", "convert", "select", "unpack", "reindex", "build", "build-tree", "fetch")


@dataclass
class Job:
    """A command, and the paths by which its progress is seen."""

    words: tuple[object, ...]
    """The command without OUT."""
    folder: Path
    """A folder of its own, which holds the output ``out``."""
    begun: str = ""
    """Pattern of the paths in ``folder`` that exist while it works; "" if there is none."""
    late: str = ""
    """Pattern of the paths that exist when it is nearly done."""
    shards: Path | None = None
    """Shards that are copied to the output before the start."""
    takes_files: bool = False
    """True if the output may hold a user's files."""
    is_forked: bool = True
    """True if a child of this process may run it: it starts in milliseconds."""

    @property
    def is_build(self) -> bool:
        """True for ``build``; only a child of this process takes a small CIFAR-10."""
        return self.words[0] == "build"

    @property
    def out(self) -> Path:
        """The output: a folder, or a file."""
        return self.folder / "out"

    def prepare(self) -> None:
        """Make the folder with a user's files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        write(self.folder, *MINE, data=b"mine")
        if self.shards:
            shutil.copytree(self.shards, self.out)
            (self.out / "manifest.json").unlink()
        if self.takes_files:
            write(self.out, *MINE, data=b"mine")

    def start(self, workers: int) -> "Process":
        """Start the command; what it prints goes to a file beside its folder."""
        words = [*map(str, (*self.words, self.out, "--quiet"))]
        log = self.folder.with_name("log")
        if self.is_forked:
            words += ["--workers", str(workers)]
        if self.is_forked and (workers == 1 or self.is_build):
            return Process(start_forked(partial(run_main, words, log, self.is_build)))
        with open(log, "wb") as file:
            started = subprocess.Popen([COMMAND, *words], stderr=file, start_new_session=True)
        started.returncode = 0  # so that Python does not wait for it, too
        return Process(started.pid)

    @property
    def said(self) -> str:
        """The output of the last command."""
        return self.folder.with_name("log").read_text()

    def has(self, pattern: str) -> bool:
        """True if a path fits a pattern."""
        return next(self.folder.glob(pattern), None) is not None


@dataclass
class Process:
    """A child process."""

    pid: int
    status: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, negative after a signal; None if it still runs."""
        if self.status is None:
            pid, found = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(found) if pid else None
        return self.status

    def wait(self) -> int:
        """Wait for its end; return its exit status."""
        while (status := self.poll()) is None:
            time.sleep(0.001)
        return status

    def wait_while(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition does not hold, or the process has ended."""
        while self.poll() is None and condition():
            time.sleep(0.0005)


def run_main(words: list[str], log: Path, is_build: bool) -> None:
    """Run the command in this child process, as a session of its own."""
    os.setsid()
    if is_build:
        cifar10.BATCH_SIZE = BATCH_SIZE
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, 2)
    sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["cinic-shard", *words]
    status: object = 0
    try:
        cli.main()
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0)


@pytest.fixture
def num_stops(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--kills"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "sources"
    make_sources(out, photos=PHOTOS, batch_size=BATCH_SIZE)
    return out


@pytest.fixture
def job(request: pytest.FixtureRequest, small_tree: Tree, tmp_path: Path) -> Iterator[Job]:
    folder = tmp_path / "work"
    options = (*small_tree.options, "--shard-size", max(1, len(small_tree.keys) // 60))
    moving = "out/_packing/*-moving.json"
    packing = "out/_packing/*-begin.json"
    if request.param in ("build", "build-tree"):
        source = request.getfixturevalue("sources")
        words: tuple[object, ...] = (
            "--cifar", source / "cifar-10-python.tar.gz", "--imagenet", source / "synsets",
            "--per-class", PER_CLASS,
        )  # fmt: skip
        if request.param == "build":
            yield Job(("build", *words, *options), folder, "out.building/*-log", moving)
        else:
            yield Job(("build", *words, "--tree"), folder, "out.building/*-log", "out")
    elif request.param == "fetch":
        with served(small_tree, tmp_path) as (url, digest):
            words = ("fetch", "--url", url, "--accept-hash", digest)
            yield Job(words, folder, "out.part", "out.part", is_forked=False)
    elif request.param == "pack":
        yield Job(("pack", small_tree.folder, *options), folder, packing, moving)
    elif request.param == "reindex":
        yield Job(("reindex",), folder, shards=small_tree.packed(), takes_files=True)
    elif request.param == "unpack":
        words = ("unpack", small_tree.packed())
        yield Job(words, folder, "out/.unpacking/lock", takes_files=True)
    else:
        more = ("--encoding", "zstd") if request.param == "convert" else ("--class", "cat")
        yield Job((request.param, small_tree.packed(), *more), folder, packing, moving)


@contextmanager
def served(tree: Tree, folder: Path) -> Iterator[tuple[str, str]]:
    """Serve the tree as an archive, so slowly that it takes a second; yields URL and digest."""
    archive = tree.archive("CINIC-10.tar.gz")
    (folder / "served").mkdir()
    (folder / "web").mkdir()
    (folder / "served" / "out").symlink_to(archive)
    digest = digests(archive.parent)[archive.name]
    with caddy(folder / "web", folder / "served") as url:
        address = urlsplit(url)
        assert address.hostname and address.port
        faults = Faults(bytes_a_second=archive.stat().st_size)
        with FaultProxy((address.hostname, address.port), faults) as proxy:
            yield f"{proxy.url}/out", digest


def undisturbed(job: Job) -> tuple[dict[str, str], float, float]:
    """Run the job twice; returns its files, its seconds, and those from the begin of its work."""
    (files, *one), (again, *two) = _undisturbed(job), _undisturbed(job)
    assert differences(files, again) == []
    return files, min(one[0], two[0]), min(one[1], two[1])


def _undisturbed(job: Job) -> tuple[dict[str, str], float, float]:
    job.prepare()
    begun = time.monotonic()
    process = job.start(1)
    if job.begun:
        process.wait_while(lambda: not job.has(job.begun))
    at_work = time.monotonic()
    assert process.wait() == 0, job.said
    end = time.monotonic()
    return digests(job.folder), end - begun, end - at_work


def stop_somewhere(
    job: Job, number: int, chance: random.Random, how: int, seconds: tuple[float, float]
) -> tuple[int, float]:
    """Start the job and stop it; returns its exit status, and the seconds until it ended."""
    workers = 2 if number % 5 == 4 else 1
    process = job.start(workers)
    if not job.begun:
        process.wait_while(lambda: workers > 1 and len(children_of(process.pid)) < workers)
        time.sleep(chance.uniform(0.0, 1.0) * seconds[0])
    elif job.late and number % 4 == 3:
        process.wait_while(lambda: not job.has(job.late))
        time.sleep(chance.uniform(0.0, 0.01))
    else:
        process.wait_while(lambda: not job.has(job.begun))
        time.sleep(chance.uniform(0.0, 1.0) * seconds[1])
    children = children_of(process.pid)
    begun = time.monotonic()
    with suppress(ProcessLookupError):
        if how != signal.SIGKILL:
            os.killpg(process.pid, how)
        elif number % 10 == 9 and len(children) >= workers > 1:
            os.kill(chance.choice(children[-workers:]), how)
        else:
            os.kill(process.pid, how)
    status = process.wait()
    ended = time.monotonic() - begun
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() - begun < 60, "a worker outlives its parent"
        time.sleep(0.005)
    return status, ended


def children_of(process_id: int) -> list[int]:
    with suppress(FileNotFoundError):
        text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
        return [int(number) for number in text.split()]
    return []


def put_files(job: Job) -> dict[str, str]:
    """Put a user's files into every folder for unfinished files; returns their digests."""
    for name in ("out/_packing", "out/.unpacking", "out.building"):
        folder = job.folder / name
        if folder.is_dir():
            write(folder, *LATER, data=b"mine, too")
    return {
        path: digest
        for path, digest in digests(job.folder).items()
        if (Path(path).name in LATER and (job.folder / path).read_bytes() == b"mine, too")
        or path in {*MINE, *(f"out/{name}" for name in MINE if job.takes_files)}
    }


def check_after(job: Job, expected: dict[str, str], mine: dict[str, str], what: str) -> str:
    """Run the job again, and compare all files; returns what it did."""
    status, said = job.start(1).wait(), job.said
    after = digests(job.folder)
    lost = differences({name: after.get(name, "gone") for name in mine}, mine)
    assert lost == [], f"{what}: a user's files were changed; {said}"
    left = {name: digest for name, digest in after.items() if name not in mine}
    if status:
        assert any(text in said for text in COMPLETE), f"{what}: {said}"
        left = {name: digest for name, digest in left.items() if ".building/" not in name}
    wanted = {name: digest for name, digest in expected.items() if name not in mine}
    assert differences(left, wanted) == [], f"{what}: {said}"
    return "was complete" if status else "recovered"


@pytest.mark.parametrize("job", JOBS, indirect=True)
def test_killed_among_users_files(
    job: Job, num_stops: int, record_property: Record, small_tree: Tree
) -> None:
    """Does a command that is killed at any moment recover, and leave every file of the user alone?

    SIGKILL comes at a random moment of its work, and every fourth time when it is nearly done.
    Every fifth time the command has two workers, and every tenth time one of these is killed.
    Users' files of similar names stand in the folders beforehand, and are put into the folders for
    unfinished files before the command is repeated.
    """
    expected, *seconds = undisturbed(job)
    chance = random.Random(0)
    outcomes: Counter[str] = Counter()
    for number in range(num_stops):
        job.prepare()
        status, _ = stop_somewhere(job, number, chance, signal.SIGKILL, (seconds[0], seconds[1]))
        mine = put_files(job)
        how = check_after(job, expected, mine, f"kill {number}")
        outcomes[f"{'running' if status else 'had ended'}: {how}"] += 1
    record_property("kills", num_stops)
    record_property("outcomes", dict(sorted(outcomes.items())))
    record_property("seconds", [round(one, 2) for one in seconds])


@pytest.mark.parametrize("job", JOBS, indirect=True)
def test_stopped_among_users_files(
    job: Job, num_stops: int, record_property: Record, small_tree: Tree
) -> None:
    """Do Ctrl-C and SIGTERM end a command soon, with the right status, so that it can be repeated?

    The signal goes to all its processes, as from a terminal or a scheduler.
    """
    expected, *seconds = undisturbed(job)
    chance = random.Random(1)
    outcomes: Counter[str] = Counter()
    longest = 0.0
    for number in range(max(4, num_stops // 4)):
        how = (signal.SIGINT, signal.SIGTERM)[number % 2]
        job.prepare()
        status, ended = stop_somewhere(job, number // 2, chance, how, (seconds[0], seconds[1]))
        said = job.said
        # A signal after the command's end, while Python ends, is not caught.
        assert status in (0, 128 + how, -how), f"{how.name}: status {status}: {said}"
        assert "Traceback" not in said and (status <= 0 or "interrupted" in said), said
        longest = max(longest, ended if status else 0.0)
        again = check_after(job, expected, put_files(job), f"{how.name} {number}")
        outcomes[f"{how.name}: {'running' if status else 'had ended'}: {again}"] += 1
    record_property("stops", sum(outcomes.values()))
    record_property("outcomes", dict(sorted(outcomes.items())))
    record_property("longest_seconds_to_end", round(longest, 2))
