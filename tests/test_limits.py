"""Limits of control groups: fake trees of v1 and v2; real groups with half a core and 300 MB."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cinic_shards import options
from cinic_shards.limits import cpu_quota, free_memory, usable_memory
from cinic_shards.options import usable_cores

V2 = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
CPU = "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1_GROUPS = "4:memory:/job/step\n3:cpu,cpuacct:/job\n1:name=systemd:/\n"
UNLIMITED = "9223372036854771712\n"
"""Bytes that v1 shows for no limit."""


def v2_group(path: str, cpu: str = "max 100000\n", memory: str = "max\n") -> dict[str, str]:
    """Files of a group of v2 that uses 100 bytes and 60 bytes of page cache."""
    return {
        f"sys/fs/cgroup/{path}/cpu.max": cpu,
        f"sys/fs/cgroup/{path}/memory.max": memory,
        f"sys/fs/cgroup/{path}/memory.high": "max\n",
        f"sys/fs/cgroup/{path}/memory.current": "160\n",
        f"sys/fs/cgroup/{path}/memory.stat": "anon 100\nactive_file 20\ninactive_file 40\n",
    }


def v1_groups(quota: str = "-1\n", limit: str = UNLIMITED, top: str = UNLIMITED) -> dict[str, str]:
    """Files of groups of v1: /job has a quota, /job/step a limit, and / a limit of all."""
    memory = "sys/fs/cgroup/memory"
    return {
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        f"{memory}/memory.limit_in_bytes": top,
        f"{memory}/memory.usage_in_bytes": "1000\n",
        f"{memory}/job/step/memory.limit_in_bytes": limit,
        f"{memory}/job/step/memory.usage_in_bytes": "160\n",
        f"{memory}/job/step/memory.stat": "inactive_file 7\ntotal_inactive_file 60\n",
    }


def of(groups: str, mounts: str, *trees: dict[str, str]) -> dict[str, str]:
    """Files of /proc/self, and those of groups."""
    files = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    for tree in trees:
        files |= tree
    return files


LIMITS: dict[str, tuple[dict[str, str], float | None, int | None]] = {
    "nothing": ({}, None, None),
    "v2": (of("0::/a\n", V2, v2_group("a", "50000 100000\n", "1000\n")), 0.5, 900),
    "v2, no limit": (of("0::/a\n", V2, v2_group("a")), None, None),
    "v2, a parent": (
        of("0::/a/b/c\n", V2, v2_group("a", "150000 100000\n", "500\n"),
           v2_group("a/b/c", "400000 100000\n", "1000\n")), 1.5, 400,
    ),
    "v2, a namespace": (of("0::/\n", V2, v2_group(".", "200000 100000\n", "700\n")), 2, 600),
    "v2, memory.high": (
        of("0::/a\n", V2, v2_group("a", memory="1000\n"),
           {"sys/fs/cgroup/a/memory.high": "300\n"}), None, 200,
    ),
    "v2, more in use than allowed": (of("0::/a\n", V2, v2_group("a", memory="50\n")), None, 0),
    "v2, a mount of a subtree": (
        of("0::/pods/x/y\n", V2.replace(" / ", " /pods/x ", 1), v2_group("y", "100000 100000\n")),
        1, None,
    ),
    "v2, a mount of others' groups": (
        of("0::/mine\n", V2.replace(" / ", " /theirs ", 1), v2_group(".", "10 10\n", "9\n")),
        None, None,
    ),
    "v2, outside of the namespace": (
        of("0::/../b\n", V2, v2_group(".", "100000 100000\n"), {"sys/fs/b/cpu.max": "1 1\n"}),
        None, None,
    ),
    "v2, a space in the mount's path": (
        of("0::/\n", V2.replace("/sys/fs/cgroup", r"/my\040groups"),
           {"my groups/cpu.max": "300000 100000\n"}), 3, None,
    ),
    "v1": (of(V1_GROUPS, CPU + MEMORY, v1_groups("50000\n", "1000\n")), 0.5, 900),
    "v1, no limit": (of(V1_GROUPS, CPU + MEMORY, v1_groups()), None, None),
    "v1, a parent": (of(V1_GROUPS, CPU + MEMORY, v1_groups(top="1500\n")), None, 500),
    "hybrid": (
        of(V1_GROUPS + "0::/unified\n", CPU + MEMORY + V2.replace("cgroup rw", "cgroup/unified rw"),
           v1_groups("250000\n", "1000\n"), v2_group("unified/unified")), 2.5, 900,
    ),
    "hybrid, both": (
        of("3:cpu,cpuacct:/job\n0::/a\n", CPU + V2, v1_groups("50000\n"),
           v2_group("a", "20000 100000\n")), 0.2, None,
    ),
}  # fmt: skip

MALFORMED: dict[str, dict[str, str]] = {
    "words": of("0::/a\n", V2, v2_group("a", "half a core\n", "much\n")),
    "too few": of("0::/a\n", V2, v2_group("a", "50000\n", "\n")),
    "a period of 0": of("0::/a\n", V2, v2_group("a", "50000 0\n", "-5\n")),
    "a quota of 0": of("0::/a\n", V2, v2_group("a", "0 100000\n", "1.5\n")),
    "endless numbers": of("0::/a\n", V2, v2_group("a", f"{'9' * 9000} 1\n", f"{'9' * 9000}\n")),
    "no group": of("", V2, v2_group("a", "1 1\n", "1\n")),
    "strange groups": of("0\n:\n::::\nx:y\n", V2, v2_group("a", "1 1\n", "1\n")),
    "no mounts": of("0::/a\n", "", v2_group("a", "1 1\n", "1\n")),
    "strange mounts": of("0::/a\n", "x\n - \n1 2 3 - cgroup2\n- cgroup2 a b\n", v2_group("a")),
    "NUL in a path": of("0::/a\0b\n", V2, v2_group("a", "1 1\n", "1\n")),
}


@pytest.fixture
def plant(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Write files below a folder that stands for /."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text.encode("latin-1"))
        return tmp_path

    return write


@pytest.mark.parametrize("name", LIMITS)
def test_the_smallest_limit_of_all_groups(
    plant: Callable[[dict[str, str]], Path], name: str
) -> None:
    files, quota, memory = LIMITS[name]
    root = plant(files)
    assert (cpu_quota(root), free_memory(root)) == (quota, memory)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_no_limit(plant: Callable[[dict[str, str]], Path], name: str) -> None:
    root = plant(MALFORMED[name])
    assert (cpu_quota(root), free_memory(root)) == (None, None)


def test_unreadable_files_are_no_limit(plant: Callable[[dict[str, str]], Path]) -> None:
    root = plant(of("0::/a\n", V2))
    for name in ("cpu.max", "memory.max", "memory.stat"):  # folders: root could read a closed file
        (root / "sys/fs/cgroup/a" / name).mkdir(parents=True)
    assert (cpu_quota(root), free_memory(root)) == (None, None)
    root = plant(of("0::/b\n", V2, {"sys/fs/cgroup/b/memory.max": "\xff\xfe"}))
    assert free_memory(root) is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the affinity of Linux")
@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [(8, None, 8), (8, 0.5, 1), (8, 1.0, 1), (8, 1.5, 2), (8, 4.0, 4), (2, 4.0, 2)],
)
def test_usable_cores_have_both_affinity_and_quota(
    affinity: int, quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)))
    monkeypatch.setattr(options, "cpu_quota", lambda: quota)
    assert usable_cores() == cores
    # Python 3.13's, which -X cpu_count and PYTHON_CPU_COUNT set.
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1, raising=False)
    assert usable_cores() == 1 and usable_cores(os.getppid()) == cores


def test_usable_cores_without_an_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS; and of a process that has ended."""
    monkeypatch.setattr(options, "cpu_quota", lambda: None)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    assert usable_cores(2**22 + 1) == usable_cores()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == (os.cpu_count() or 1)


def test_usable_memory(plant: Callable[[dict[str, str]], Path]) -> None:
    limited = usable_memory(plant(of("0::/a\n", V2, v2_group("a", memory="1000\n"))))
    assert limited == (900, "free in this process's cgroup")
    all_memory = usable_memory(plant({"proc/self/cgroup": ""}))
    assert all_memory is None or (all_memory[0] > 2**27 and all_memory[1] == "in this machine")


# --- Real groups -----------------------------------------------------------------------------


@contextmanager
def group(controller: str, files: dict[str, str]) -> Iterator[Path]:
    """Make a real group: of v1 if it has the controller, else one of v2 for all controllers."""
    v1 = Path("/sys/fs/cgroup") / controller
    top = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
    folder = top / f"cinic-shards-test-{os.getpid()}"
    try:
        if top is not v1:
            (top / "cgroup.subtree_control").write_text(f"+{controller}")
        folder.mkdir(exist_ok=True)
    except OSError as error:
        pytest.skip(f"NOT RUN: no cgroup can be made here, it needs root: {error}")
    try:
        known = {name: text for name, text in files.items() if (folder / name).exists()}
        assert known
        for name, text in known.items():
            (folder / name).write_text(text)
        yield folder
    finally:
        if folder.exists():
            folder.rmdir()


def run_in(folders: list[Path], code: str) -> str:
    """Run code in a new process in these groups; return what it prints."""
    join = (
        "import os, sys\nfor path in sys.argv[1:]:\n    open(path, 'w').write(str(os.getpid()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", join + textwrap.dedent(code),
         *(str(folder / "cgroup.procs") for folder in folders)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="cgroups of Linux")
def test_half_a_core_and_300_mb(tmp_path: Path) -> None:
    """160,000 images have 491 MB of pixels; ``max_bytes`` keeps 80 MB of them."""
    cpu = {"cpu.max": "50000 100000", "cpu.cfs_quota_us": "50000"}
    memory = {"memory.max": str(300 * 10**6), "memory.limit_in_bytes": str(300 * 10**6)}
    with group("cpu", cpu) as half_a_core, group("memory", memory) as small:
        printed = run_in([half_a_core, small], """
            import numpy as np
            from cinic_shards import ShardLoader, errors
            from cinic_shards.limits import cpu_quota, usable_memory
            from cinic_shards.loader.cache import BlockCache
            from cinic_shards.loader.world import default_threads
            from cinic_shards.options import number_of_workers

            class Reader:  # a split of 160 blocks of 1,000 rows
                block_starts = np.arange(161) * 1000
                image_shape = (32, 32, 3)

            print(cpu_quota(), default_threads(), number_of_workers(None))
            free, what = usable_memory()
            print(10**8 < free < 300 * 10**6, what)
            needed = np.arange(160)
            try:
                BlockCache(Reader, None, needed)
            except errors.OptionError as error:
                print(error)
            cache = BlockCache(Reader, 80_000_000, needed)
            print(cache.memory.nbytes)
            cache.memory[:] = 1  # all of it is there
        """).splitlines()  # fmt: skip
    assert printed[:2] == ["0.5 1 1", "True free in this process's cgroup"]
    assert printed[2].startswith("cache='ram': the pixels are 491.5 MB, ")
    assert "MB are free in this process's cgroup; set max_bytes" in printed[2]
    assert printed[3:] == ["79872000"]
