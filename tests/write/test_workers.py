"""Executors, and packing jobs whose processes are killed or interrupted."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from make_demo_tree import make_tree

from cinic_shards.jobs import make_executor, run_jobs
from cinic_shards.jobs.compiling import about_to_compile, compiling_reported
from cinic_shards.jobs.processes import LOGGER
from cinic_shards.jobs.stop import check_stop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

COMMAND = Path(sys.executable).with_name("cinic-shard")


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_run_and_their_errors_are_raised(workers: int) -> None:
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
    """Return the worker processes that a process has started so far."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return [child for child, line in lines.items() if b"spawn_main" in line]


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    os.kill(children(process.pid)[-1], signal.SIGKILL)


def send_to_all(number: int) -> Callable[[subprocess.Popen[str]], None]:
    """As a terminal does with Ctrl-C, and a scheduler with SIGTERM."""
    return lambda process: os.killpg(process.pid, number)


def send_to_one(number: int) -> Callable[[subprocess.Popen[str]], None]:
    """As ``kill`` does."""
    return lambda process: os.kill(process.pid, number)


KEPT = "finished shards are kept"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 images; read only."""
    root = tmp_path_factory.mktemp("workers") / "tree"
    make_tree(root, per_class=30, seed=0)
    return root


@pytest.mark.parametrize(
    ("end", "at_work", "status", "message"),
    [
        (kill_a_worker, False, 1, "a worker process died"),
        (send_to_all(signal.SIGINT), False, 130, "nothing was packed"),
        (send_to_all(signal.SIGINT), True, 130, KEPT),
        pytest.param(send_to_all(signal.SIGTERM), True, 143, KEPT, marks=pytest.mark.real),
        pytest.param(send_to_one(signal.SIGTERM), True, 143, KEPT, marks=pytest.mark.real),
        pytest.param(send_to_one(signal.SIGHUP), True, 129, KEPT, marks=pytest.mark.real),
        pytest.param(kill_a_worker, True, 1, KEPT, marks=pytest.mark.real),
    ],
    ids=["a worker killed", "Ctrl-C early", "Ctrl-C", "SIGTERM", "kill", "SIGHUP", "killed later"],
)
def test_an_interrupted_packing_keeps_finished_shards(
    tree: Path,
    tmp_path: Path,
    end: Callable[[subprocess.Popen[str]], None],
    at_work: bool,
    status: int,
    message: str,
) -> None:
    """Interrupted just after its workers were started, or while they write shards."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [COMMAND, "pack", tree, out, "--workers", "2", "--shard-size", "10"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(children(process.pid)) < 2 or (at_work and not list(out.glob("*/*.tar.json"))):
        time.sleep(0.005)
        assert process.poll() is None
    end(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert message in errors and "Traceback" not in errors
    if not at_work:
        assert not out.exists()
        return
    kept = {path.stem: path.with_suffix("").stat().st_ino for path in out.glob("*/*.tar.json")}
    again = [COMMAND, "pack", tree, out, "--workers", "1", "--shard-size", "10", "-q"]
    subprocess.run(again, check=True)
    inodes = {path.name: path.stat().st_ino for path in out.iterdir()}
    assert kept and {inodes[name.partition("-")[2]] for name in kept} == {*kept.values()}
    assert len(inodes) == 91 and not (out / "_packing").exists()


def stop(result: object) -> None:
    time.sleep(0.3)  # until the next job runs
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_running_processes_are_ended_at_once(error: type[BaseException]) -> None:
    def stop(result: None) -> None:
        raise error

    with pytest.raises(error), make_executor(2) as executor:
        begun = time.monotonic()
        try:
            run_jobs(executor, time.sleep, [0.0, *[60.0] * 20], done=stop)
        finally:
            seconds = time.monotonic() - begun
    assert seconds < 30 and time.monotonic() - begun < 30


def work(seconds: float) -> None:
    for _ in range(int(seconds * 100)):
        check_stop()
        time.sleep(0.01)


@pytest.mark.parametrize("function", [work, time.sleep])
def test_a_running_thread_is_ended_at_once(function: Callable[[float], None]) -> None:
    """Or left alone, if it waits."""
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), make_executor(1) as executor:
        run_jobs(executor, function, [0.0, 3.0, 3.0], done=stop)
    assert time.monotonic() - begun < 2.5
    # Python does not wait for daemons when it ends.
    assert all(one.daemon for one in threading.enumerate() if one.name.startswith("cinic-shards"))


def test_a_second_ctrl_c_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the first one ends the pool."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with make_executor(2) as executor:
        jobs = [executor.submit(time.sleep, 60.0) for _ in range(8)]
        while not jobs[0].running():
            time.sleep(0.01)
        processes = list(executor._processes.values())  # type: ignore[attr-defined]
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(time, "sleep", interrupt)
            executor.stop()  # type: ignore[attr-defined]
        deadline = time.monotonic() + 5
        while any(process.is_alive() for process in processes):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def level_of_warnings() -> int:
    return LOGGER.level


def test_workers_warn_as_their_parent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOGGER, "level", logging.ERROR)
    with make_executor(2) as executor:
        assert executor.submit(level_of_warnings).result() == logging.ERROR


def compile_kernels(job: int) -> None:
    about_to_compile()
    about_to_compile()


@pytest.mark.parametrize("workers", [1, 2])
def test_compiling_in_workers_is_reported_once(workers: int) -> None:
    reported: list[str] = []
    with compiling_reported(reported.append), make_executor(workers) as executor:
        run_jobs(executor, compile_kernels, range(3))
    assert reported == ["compiling kernels, once on this machine"]
    about_to_compile()
    assert len(reported) == 1


def test_a_process_that_is_killed_while_the_pool_ends_does_not_block_it() -> None:
    """The killed process may hold the lock of the queue that the other process waits for."""
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


def write_half(job: int) -> bytes:
    """Return a result that does not fit into a pipe, and die while it is written."""
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    return bytes(10_000_000)


def stop_reading(executor: Any) -> None:
    """Let the thread that reads results wait before it reads a large one."""
    reader = executor._result_queue._reader
    read = reader._recv

    def slowly(size: int, *args: Any) -> Any:
        if size > 1_000_000:
            time.sleep(1.0)  # the pipe is full meanwhile, and the process is killed
        return read(size, *args)

    reader._recv = slowly


def test_a_process_that_is_killed_while_it_writes_a_result() -> None:
    """Half of the result has arrived; the pool does not wait for the rest."""
    begun = time.monotonic()
    with pytest.raises(BrokenExecutor), make_executor(2) as executor:
        futures = [executor.submit(abs, -1)]
        futures[0].result()
        stop_reading(executor)
        executor.submit(write_half, 0).result()
    assert time.monotonic() - begun < 30
