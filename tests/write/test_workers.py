"""Executors, and what a packing job leaves when its processes are killed or interrupted."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest
from make_demo_tree import make_tree

from cinic_shards.jobs import make_executor
from cinic_shards.options import usable_cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

COMMAND = Path(sys.executable).with_name("cinic-shard")


def test_usable_cores_are_those_of_the_affinity_mask() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_run_and_their_errors_come_back(workers: int) -> None:
    with make_executor(workers) as executor:
        assert executor.submit(abs, -3).result() == 3
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        with pytest.raises(ValueError, match="invalid literal"):
            executor.submit(int, "x").result()


def test_one_worker_is_this_process() -> None:
    with make_executor(1) as executor:
        assert executor.submit(os.getpid).result() == os.getpid()


def test_a_killed_worker_breaks_its_executor() -> None:
    with make_executor(2) as executor, pytest.raises(BrokenExecutor):
        executor.submit(os._exit, 1).result()


def children(pid: int) -> list[int]:
    """The worker processes that a process has started by now."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return [child for child, line in lines.items() if b"spawn_main" in line]


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    os.kill(children(process.pid)[-1], signal.SIGKILL)


def interrupt_all(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,700 images; read only."""
    root = tmp_path_factory.mktemp("workers") / "tree"
    make_tree(root, per_class=90, seed=0)
    return root


@pytest.mark.parametrize(
    ("end", "at_work", "status", "message"),
    [
        (kill_a_worker, False, 1, "a worker process died"),
        (interrupt_all, False, 130, "nothing was packed"),
        (interrupt_all, True, 130, "nothing was packed"),
    ],
)
def test_packing_that_is_ended_leaves_nothing(
    tree: Path,
    tmp_path: Path,
    end: Callable[[subprocess.Popen[str]], None],
    at_work: bool,
    status: int,
    message: str,
) -> None:
    """Where its workers have just been started, or have begun on shards."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [COMMAND, "pack", tree, out, "--workers", "2", "--shard-size", "10"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(children(process.pid)) < 2 or (at_work and not list(out.glob("*/*.tar"))):
        time.sleep(0.005)
        assert process.poll() is None
    end(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert message in errors and "Traceback" not in errors
    assert not out.exists()


def test_a_process_that_is_killed_while_the_pool_ends_does_not_hold_it_up() -> None:
    """The one that is killed may hold the lock of the queue at which the other one waits."""
    script = """
        import os, signal, threading, time
        from cinic_shards.jobs import make_executor, run_jobs

        if __name__ == "__main__":
            for number in range(8):
                with make_executor(2) as executor:
                    assert run_jobs(executor, abs, [-1, -2, -3, -4]) == [1, 2, 3, 4]
                    time.sleep(0.05)
                    for process in executor._processes.values():
                        os.kill(process.pid, signal.SIGSTOP)  # so that the pool cannot end yet
                    one, two = executor._processes.values()
                    victim, other = (one, two) if number % 2 else (two, one)
                    def end(victim=victim, other=other):
                        time.sleep(0.1)
                        os.kill(victim.pid, signal.SIGKILL)
                        os.kill(other.pid, signal.SIGCONT)
                    threading.Thread(target=end).start()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(command, timeout=90).returncode == 0
