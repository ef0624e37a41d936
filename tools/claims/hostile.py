"""Does a hostile file ever crash, hang, take memory or raise anything but the package's exceptions?

    python tools/claims/hostile.py --seconds 600

Every attack of tests/hostile by every way in, each attack in a process of its own; then each
parser's test of tests/test_properties.py for so many seconds (600), on files that hypothesis
changes, as many at once as there are cores.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from claim import REPOSITORY, Claim

from cinic_shards.options import usable_cores

RUNNER = REPOSITORY / "tests" / "hostile" / "run_hostile.py"
PROPERTIES = REPOSITORY / "tests" / "test_properties.py"


def run_attacks() -> list[dict[str, Any]]:
    """What came of every attack by every way in."""
    command = [sys.executable, "-W", "ignore", str(RUNNER)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def pytest(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of the parsers."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def run_properties(seconds: float) -> dict[str, str]:
    """Each parser's test -> the end of what it said, empty where it passed."""
    listed = pytest("--collect-only", str(PROPERTIES)).stdout.splitlines()
    tests = [line for line in listed if "::" in line]

    def run(test: str) -> str:
        done = pytest(test, CINIC_PROPERTY_SECONDS=str(seconds))
        return done.stdout[-2000:] if done.returncode else ""

    with ThreadPoolExecutor(usable_cores()) as threads:
        said = list(threads.map(run, tests))
    return {test.partition("::")[2]: text for test, text in zip(tests, said, strict=True)}


def main() -> None:
    """Run the claim."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seconds", type=float, default=600)
    own, sys.argv[1:] = parser.parse_known_args()
    with Claim(__doc__ or "") as claim:
        results = run_attacks()
        problems = [
            f"{result['attack']}, {result['way']}: {result['problem']}"
            for result in results
            if result["problem"]
        ]
        properties = run_properties(own.seconds)
        failed = {test: said for test, said in properties.items() if said}
        slowest = max(results, key=lambda result: result["seconds"])
        largest = max(results, key=lambda result: result["megabytes"])
        others = [result for result in results if "2^26 pixels" not in result["attack"]]
        num_attacks = len({result["attack"] for result in results})
        claim.report(
            figure=f"{len(problems)} problems in {num_attacks} attacks, {len(failed)} in "
            f"{len(properties)} tests of {own.seconds:g} s",
            bar="0: no crash, at most 5 s and 300 MB over the base (and 3 bytes a pixel of the "
            "largest image), only the package's exceptions, nothing outside the output",
            holds=not problems and not failed and len(properties) > 0,
            runs=len(results),
            problems=problems[:20],
            failed=failed,
            slowest={name: slowest[name] for name in ("attack", "way", "seconds")},
            largest={name: largest[name] for name in ("attack", "way", "megabytes")},
            largest_without_the_largest_images=max(result["megabytes"] for result in others),
        )


if __name__ == "__main__":
    main()
