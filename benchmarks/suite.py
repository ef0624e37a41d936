r"""Compare the ways to read CINIC-10: every contender, every question, one run.

Each contender stores and reads the same split of the same tree in a process in its own environment,
with the best settings that its documentation gives (``contenders/``). Contenders that are not
installed are skipped, with the reason. Contenders take turns, repeat by repeat, so that a machine
that slows down slows all of them; figures are medians.

    make bench-env                                       # once: environments for some contenders
    python -m benchmarks.suite --tree ./cinic --out suite.jsonl
    python -m benchmarks.plot suite.jsonl --docs docs    # tables and plots

``questions/`` has the questions and how each is measured; docs/benchmarks.md has the answers.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks import argument_parser
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import Contender, samples_of
from benchmarks.environments import python_of
from benchmarks.processes import ContenderError, Process
from benchmarks.questions import QUESTIONS, with_needed
from benchmarks.runs import Suite


def say(text: str) -> None:
    """Print progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Describe this machine: system, processor, cores and memory."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.split(": ")[1] for line in lines if line.startswith("model name"))
        model = next(names, model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
    }


def installed(suite: Suite, contenders: list[Contender]) -> Iterator[dict[str, Any]]:
    """Ask each environment what is installed; yield a row for each contender that is skipped."""
    for environment in dict.fromkeys(contender.environment for contender in contenders):
        python = python_of(environment)
        names = [one.name for one in contenders if one.environment == environment]
        if python.exists():
            with Process(python, suite.log(environment)) as process:
                found = process.ask("describe", contenders=names)
        else:
            reason = f"no environment {environment!r}; make bench-env makes it"
            found = {"versions": {}, "missing": dict.fromkeys(names, reason)}
        suite.versions[environment] = found["versions"]
        for name in names:
            if reason := found["missing"][name]:
                say(f"{name}: skipped: {reason}")
                yield {"question": "skipped", "contender": name, "reason": reason}
            else:
                suite.contenders.append(CONTENDERS[name])
    suite.contenders.sort(key=[*CONTENDERS.values()].index)


def run(suite: Suite, contenders: list[Contender], questions: set[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each answer."""
    skipped = [*installed(suite, contenders)]
    yield {
        "question": "run",
        "machine": machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "images": suite.num_images,
        "repeats": suite.repeats,
        "latency_seconds": suite.latency_seconds,
        "bytes_a_second": suite.bytes_a_second,
        "versions": suite.versions,
    }
    yield from skipped
    for name in with_needed(questions):
        say(f"--- {name}")
        for row in QUESTIONS[name](suite):
            yield {"question": name, **row}


def main() -> None:
    """Run all questions and write a JSON line for each answer."""
    parser = argument_parser(__doc__)
    parser.add_argument("--tree", type=Path, required=True, help="folder of <split>/<class>/*.png")
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of a glance")
    parser.add_argument(
        "--questions", nargs="+", choices=QUESTIONS, default=[*QUESTIONS], metavar="QUESTION",
        help=f"default: all of {', '.join(map(repr, QUESTIONS))}",
    )  # fmt: skip
    parser.add_argument(
        "--contenders", nargs="+", default=["*"], metavar="PATTERN", help="such as 'FFCV*'"
    )
    parser.add_argument("--scratch", type=Path, help="where to build; default: a temporary folder")
    parser.add_argument("--latency", type=float, default=0.03, help="S3: seconds per request")
    parser.add_argument(
        "--bandwidth", type=float, default=20e6, help="S3: bytes per second per connection"
    )
    args = parser.parse_args()
    wanted = [
        contender
        for name, contender in CONTENDERS.items()
        if any(fnmatch(name, pattern) for pattern in args.contenders)
    ]
    if not wanted:
        parser.error(f"--contenders: none of {', '.join(CONTENDERS)} matches")
    folder = args.tree.resolve() / args.split
    if not folder.is_dir():
        parser.error(f"--tree: no folder {folder}")
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=args.scratch)).resolve()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    suite = Suite(
        split=folder,
        num_images=len(samples_of(folder)),
        scratch=scratch,
        repeats=args.repeats,
        seconds=args.seconds,
        latency_seconds=args.latency,
        bytes_a_second=args.bandwidth,
        say=say,
    )
    try:
        with open(args.out, "w") as out:
            for row in run(suite, wanted, {*args.questions}):
                print(json.dumps(row), file=out, flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    say(f"{args.out} is written")


if __name__ == "__main__":
    try:
        main()
    except ContenderError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
