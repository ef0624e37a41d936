r"""How do the ways to read CINIC-10 compare? Every contender, every question, one run.

Each contender stores and reads the same split of the same tree in a process of its own environment,
with its documented best settings (``contenders/``); it is skipped, with the reason, where it is not
installed. Contenders take turns, repeat by repeat, so that a machine that slows down slows all of
them; the table has medians and the spread.

    make bench-env                                     # once: environments for some contenders
    python benchmarks/suite.py --tree ./cinic --out suite.jsonl
    python benchmarks/plot.py suite.jsonl --docs docs  # tables and plots

The questions, and how each is asked, are in ``questions.py``; the answers in docs/benchmarks.md.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from contenders.base import Contender, samples_of
from environments import ROOT, python_of
from processes import ContenderError, Process
from questions import QUESTIONS
from runs import Suite


def say(text: str) -> None:
    """To the one who waits."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def installed(suite: Suite, contenders: list[Contender]) -> Iterator[dict[str, Any]]:
    """Ask each environment what it has; a row for each contender that is left out."""
    for environment in dict.fromkeys(contender.environment for contender in contenders):
        python = python_of(environment)
        names = [one.name for one in contenders if one.environment == environment]
        if python.exists():
            with Process(python, suite.log(environment), {}) as process:
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


def main() -> None:
    """Run all questions and print a JSON line for each answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=Path, required=True, help="folder of <split>/<class>/*.png")
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of a glance, such as at workers"
    )
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=[*QUESTIONS])
    parser.add_argument(
        "--contenders", nargs="+", default=["*"], metavar="PATTERN", help="such as 'FFCV*'"
    )
    parser.add_argument("--scratch", type=Path, help="where to build; default: a temporary folder")
    parser.add_argument("--latency", type=float, default=0.03, help="of S3, seconds a request")
    parser.add_argument("--bandwidth", type=float, default=20e6, help="of S3, a connection's")
    args = parser.parse_args()
    sys.path += [str(ROOT / "tools"), str(ROOT / "tools" / "claims")]  # the servers, and claim.py
    from claim import machine

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
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=args.scratch))
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

            def write(row: dict[str, Any]) -> None:
                print(json.dumps(row), file=out, flush=True)

            for row in installed(suite, wanted):
                write(row)
            write({
                "question": "run",
                "machine": machine(),
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "images": suite.num_images,
                "repeats": args.repeats,
                "latency_seconds": args.latency,
                "bytes_a_second": args.bandwidth,
                "versions": suite.versions,
                "cores": len(os.sched_getaffinity(0)),
            })  # fmt: skip
            for name in QUESTIONS:
                if name in ("pack", "workers", *args.questions):  # the others need these two
                    say(f"--- {name}")
                    for row in QUESTIONS[name](suite):
                        write({"question": name, **row})
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
