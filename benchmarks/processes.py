"""A benchmark process as the suite sees it: requests, answers, memory, and its end."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from benchmarks.environments import ROOT

_TIMEOUT_SECONDS = 900.0
_PATIENCE_SECONDS = 5.0


class ContenderError(Exception):
    """A contender failed; the message is one line."""


class Process:
    """A process that answers requests; leaving the context ends it and all processes it started.

    Args:
        python: the interpreter.
        log: file for the output of the process and its libraries.
        module: the module to run; it calls ``worker.answer``.
        environment: environment variables to add.
    """

    def __init__(
        self,
        python: Path,
        log: Path,
        *,
        module: str = "benchmarks.worker",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.started = time.perf_counter()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                [python, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path, **(environment or {})},
                start_new_session=True,  # so that processes it leaves behind can be ended too
            )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self.resume()
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def pause(self) -> None:
        """Suspend the process and its workers, which would read ahead while others are measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process and its workers."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Send one request and return its answer.

        Raises:
            ContenderError: the contender failed, its process ended, or it did not answer in time.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **options}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderError(f"its process has ended; see {self.log}") from None
        if not select.select([self._process.stdout], [], [], _TIMEOUT_SECONDS)[0]:
            raise ContenderError(f"no answer in {_TIMEOUT_SECONDS:g} s; see {self.log}")
        line = self._process.stdout.readline()
        if not line:
            raise ContenderError(f"its process has ended; see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(f"{answer['error']}; see {self.log}")
        return answer

    def memory_mb(self) -> dict[str, float]:
        """Return the current memory of the process and its descendants, in MB (Linux only).

        ``pss_mb``: proportional set size. ``own_mb``: the part that is not backed by files; mapped
        files are in the page cache, which the system can evict.
        """
        found = {"pss_mb": 0.0, "own_mb": 0.0}
        this = psutil.Process(self._process.pid)
        for process in (this, *this.children(recursive=True)):
            try:
                text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            except OSError:  # it has ended
                continue
            fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            sizes = {
                name: int(value.split()[0]) / 1000
                for name, value in fields.items()
                if "kB" in value
            }
            found["pss_mb"] += sizes["Pss"]
            found["own_mb"] += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
        return found

    @contextmanager
    def watched(self) -> Iterator[dict[str, float]]:
        """Yield a dict that is updated to the largest ``memory_mb`` until the context ends."""
        most = {"pss_mb": 0.0, "own_mb": 0.0}
        done = Event()

        def watch() -> None:
            while not done.wait(0.05):
                for name, value in self.memory_mb().items():
                    most[name] = max(most[name], value)

        thread = Thread(target=watch)
        thread.start()
        try:
            yield most
        finally:
            done.set()
            thread.join()
