"""Resuming: a packing job that was killed at any moment ends with the same files."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cinic_shards.errors import OutputError, StoreError, TreeError
from cinic_shards.format import PACKING_FOLDER
from cinic_shards.jobs.threads import ThreadPool
from cinic_shards.read.dataset import Dataset
from cinic_shards.store import LocalStore
from cinic_shards.write.journal import Journal
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run
from tests.support.disk import record_disk
from tests.support.files import PAGE, digests, files_of, write
from tests.support.processes import run_forked

OPTIONS = PackOptions(shard_size=20)


@pytest.fixture
def tree(demo_tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_tree, tmp_path / "tree"))


@pytest.fixture(scope="module")
def expected(demo_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the files of an undisturbed job."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    pack(demo_tree, out, OPTIONS, workers=1)
    return digests(out)


def die_at(tree: Path, out: Path, where: str, *, overwrite: bool = False) -> None:
    """Pack in a process that runs ``where``, Python code, to end at once without cleaning up."""
    script = f"""
        import os
        from cinic_shards import store
        from cinic_shards.write import dataset as dataset_writer
        from cinic_shards.write import journal
        from cinic_shards.write import pack
        die = lambda *args, **options: os._exit(9)
        progress = lambda doing, done, total: None
        {where}
        pack.pack({str(tree)!r}, {str(out)!r}, pack.PackOptions(shard_size=20), workers=1,
                  overwrite={overwrite}, progress=progress)
    """
    assert run_forked(lambda: exec(textwrap.dedent(script), {})) == 9


MOMENTS = {
    "before the listing": "journal.np.savez = die",
    "before the first line": "journal.Journal._write = die",
    "before the first shard": "dataset_writer.write_shard = die",
    "after some shards": (
        "progress = lambda doing, done, total: doing == 'pack' and done >= 100 and die()"
    ),
    "a shard is renamed but not noted": "journal.Journal.shard_done = die",
    "between write and rename": (
        "replace = os.replace; os.replace = lambda a, b: "
        "die() if str(b).endswith('00002-of-00005.tar') else replace(a, b)"
    ),
    "before the manifest": "dataset_writer.make_manifest = die",
    "before moving": "journal.Journal.moving = die",
    "after noting that files move": (
        "moving = journal.Journal.moving; "
        "journal.Journal.moving = lambda *args: (moving(*args), die())"
    ),
    "after some moves": (
        "replace = os.replace; os.replace = lambda a, b: "
        "die() if '_packing' not in str(b) and '00003-of' in str(b) else replace(a, b)"
    ),
    "before the manifest moves": (
        "replace = os.replace; os.replace = lambda a, b: "
        "die() if '_packing' not in str(b) and 'manifest' in str(b) else replace(a, b)"
    ),
    "before the journal goes": "journal.Journal.remove = die",
}


@pytest.mark.parametrize("old", ["no older dataset", "an older dataset"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_command_resumes(
    tree: Path, tmp_path: Path, expected: dict[str, str], moment: str, old: str
) -> None:
    out = tmp_path / "out"
    overwrite = old == "an older dataset"
    if overwrite:
        write(tmp_path / "old", *(f"train/a/{number}.png" for number in range(30)))
        pack(tmp_path / "old", out, PackOptions(shard_size=6), workers=1, warn=lambda text: None)
    before = digests(out)
    die_at(tree, out, MOMENTS[moment], overwrite=overwrite)
    left = {path: d for path, d in digests(out).items() if not path.startswith(PACKING_FOLDER)}
    if "manifest.json" in left:  # then it is a complete dataset, the old or the new one
        assert left in (before, expected)
    else:
        with pytest.raises(StoreError, match="packing did not finish; run the same command again"):
            Dataset(out)
    pack(tree, out, OPTIONS, workers=1, overwrite=overwrite)
    assert digests(out) == expected


def test_finished_shards_are_not_written_again(
    tree: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    out = tmp_path / "out"
    die_at(tree, out, MOMENTS["after some shards"])
    made = {path.name: path.stat().st_ino for path in (out / PACKING_FOLDER).glob("*.tar")}
    assert len(made) >= 5
    seen: list[tuple[str, int, int]] = []
    pack(tree, out, OPTIONS, workers=1, progress=lambda *state: seen.append(state))
    assert next(state for state in seen if state[0] == "pack")[1] >= 100
    kept = [
        name
        for name, inode in made.items()
        if (out / name.partition("-")[2]).stat().st_ino == inode
    ]
    assert len(kept) >= 5
    assert digests(out) == expected


def test_a_finished_shard_that_changed_is_written_again(
    tree: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    out = tmp_path / "out"
    die_at(tree, out, MOMENTS["after some shards"])
    first, second, third, *_ = sorted((out / PACKING_FOLDER).glob("*.tar"))
    os.truncate(first, 1000)
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    third.unlink()
    pack(tree, out, OPTIONS, workers=1)
    assert digests(out) == expected


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda path: os.utime(path, (1, 1)), "changed since packing began"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "changed since packing"),
    "gone": (lambda path: path.unlink(), "gone since packing began"),
    "new": (lambda path: shutil.copy(path, path.with_name("new.png")), "new since packing began"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tree_that_has_changed_is_rejected(tree: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "out"
    die_at(tree, out, MOMENTS["after some shards"])
    make, said = CHANGES[change]
    path = sorted(tree.glob("valid/cat/*.png"))[0]
    make(path)
    before = files_of(out)
    with pytest.raises(TreeError) as caught:
        pack(tree, out, OPTIONS, workers=1)
    name = "new.png" if change == "new" else path.name
    assert caught.value.problems[0] == f"valid/cat/{name}: {said}" or (
        caught.value.problems[0].startswith(f"valid/cat/{name}: {said}")
    )
    assert "to start over" in caught.value.problems[-1]
    assert files_of(out) == before


def test_many_changes_are_counted(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    die_at(tree, out, MOMENTS["after some shards"])
    for path in tree.glob("valid/*/*.png"):
        os.utime(path, (1, 1))
    with pytest.raises(TreeError, match="89 more like it"):
        pack(tree, out, OPTIONS, workers=1)


@pytest.mark.parametrize("options", [PackOptions(), PackOptions(shard_size=20, seed=1)])
def test_different_options_are_rejected(tree: Path, tmp_path: Path, options: PackOptions) -> None:
    out = tmp_path / "out"
    die_at(tree, out, MOMENTS["after some shards"])
    before = files_of(out)
    with pytest.raises(OutputError, match="use the same options to resume, or remove that folder"):
        pack(tree, out, options, workers=1)
    assert files_of(out) == before


def test_one_process_at_a_time(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Journal(LocalStore(out)):
        with pytest.raises(OutputError, match="another process is packing there"):
            pack(tree, out, OPTIONS, workers=1)
        assert os.listdir(out) == [PACKING_FOLDER]


@pytest.mark.parametrize("name", ["begin.json", "valid-00000-of-00005.tar.json"])
def test_a_damaged_journal_is_rejected(tree: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    die_at(tree, out, MOMENTS["before the manifest"])
    (path,) = (out / PACKING_FOLDER).glob(f"*-{name}")
    path.write_bytes(path.read_bytes()[:-30])
    said = f"_packing: {name} in it is damaged; remove .*_packing and run again"
    with pytest.raises(OutputError, match=said):
        pack(tree, out, OPTIONS, workers=1)


def test_a_full_disk_keeps_the_finished_shards(
    tree: Path, expected: dict[str, str], mount_disk: Callable[[int], Path]
) -> None:
    disk = mount_disk(400 * PAGE)
    die_at(tree, disk / "out", MOMENTS["after some shards"])
    with open(disk / "filler", "wb") as file:
        file.write(bytes(PAGE * (os.statvfs(disk).f_bavail - 2)))
    with pytest.raises(OutputError) as caught:
        pack(tree, disk / "out", OPTIONS, workers=1)
    assert "run the same command again to resume" in caught.value.__notes__[-1]
    (disk / "filler").unlink()
    seen: list[int] = []
    pack(tree, disk / "out", OPTIONS, workers=1, progress=lambda _, done, total: seen.append(done))
    assert digests(disk / "out") == expected


def test_a_power_cut_never_leaves_a_wrong_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are on the disk before the note that says so; each step of the move before the next."""
    out = tmp_path / "out"
    write(tmp_path / "tree", "train/a/1.png", "train/a/2.png", "train/b/1.png")
    calls = record_disk(monkeypatch, out)
    for shard_size in (3, 2):
        calls.clear()
        pack(tmp_path / "tree", out, PackOptions(shard_size=shard_size), workers=1,
             overwrite=True, warn=lambda text: None)  # fmt: skip
    shards = ["train-00000-of-00002.tar", "train-00001-of-00002.tar"]
    begin = calls.index("rename _packing/moving.json.partial _packing/moving.json")
    before, after = calls[:begin], calls[begin + 1 :]
    for name in ("listing.npz", "begin.json", *shards, "manifest.json"):
        synced = before.index(f"sync _packing/{name}.partial")
        renamed = before.index(f"rename _packing/{name}.partial _packing/{name}")
        assert synced < renamed < len(before) - 1 - before[::-1].index("sync _packing")
    assert after[:10] == [
        "sync _packing",
        "delete manifest.json",
        "sync .",
        "delete train-00000-of-00001.tar",
        *(f"rename _packing/{name} {name}" for name in shards),
        "sync .",
        "rename _packing/manifest.json manifest.json",
        "sync .",
        f"delete _packing/{shards[0]}.json",
    ]


def children_of(process_id: int) -> list[int]:
    path = Path(f"/proc/{process_id}/task/{process_id}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def pack_command(tree: Path, out: Path, workers: int) -> list[str]:
    command = [sys.executable, "-m", "cinic_shards", "pack", str(tree), str(out)]
    return [*command, "--shard-size", "20", "--quiet", "--workers", str(workers)]


@pytest.fixture(scope="module")
def usual_seconds(demo_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that the command takes on this machine if nothing interrupts it."""
    start = time.monotonic()
    subprocess.run(pack_command(demo_tree, tmp_path_factory.mktemp("usual") / "out", 2), check=True)
    return time.monotonic() - start


@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
@pytest.mark.real
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_moment(
    tree: Path, tmp_path: Path, expected: dict[str, str], usual_seconds: float, seed: int
) -> None:
    """SIGKILL ends the command or one of its workers."""
    out = tmp_path / "out"
    chance = random.Random(seed)
    process = subprocess.Popen(pack_command(tree, out, 2), stderr=subprocess.DEVNULL)
    time.sleep(chance.uniform(0.1, 1.0) * usual_seconds)
    workers = children_of(process.pid)
    victim = chance.choice([process.pid, *workers[-2:]])
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{number}").exists() for number in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.01)
    again = pack_command(tree, out, chance.choice([1, 2, 3]))
    if (out / "manifest.json").exists() and not (out / PACKING_FOLDER).exists():
        assert digests(out) == expected  # it had finished
        return
    subprocess.run(again, check=True)
    assert digests(out) == expected


@pytest.mark.parametrize(
    ("kind", "method", "message"),
    [
        (LocalStore, "take", "run the same command again to resume"),
        (ThreadPool, "close", " is complete"),
    ],
)
def test_ctrl_c_reports_the_state_of_the_output(
    tree: Path,
    expected: dict[str, str],
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    kind: type,
    method: str,
    message: str,
) -> None:
    """Interrupted while files are moved, and after all of them are moved."""
    command = ("pack", tree, tmp_path / "out", "--shard-size", 20, "--workers", 1)
    original = getattr(kind, method)

    def interrupted(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, method, interrupted)
    outcome = run(*command)
    assert outcome.status == 130
    assert outcome.err.startswith("interrupted: ") and outcome.err.endswith(f"{message}\n")
    if message == "run the same command again to resume":
        assert run(*command).status == 0
    assert digests(tmp_path / "out") == expected
