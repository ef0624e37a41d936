r"""Write docs/claims.md: each claim of the README with its figure, and how to measure it again.

    python -m tools.claims docs

The figures come from docs/evidence.jsonl (``make acceptance``) and docs/plots/benchmarks.jsonl
(``make bench``). A claim whose question was not asked, or whose test did not pass, is an error.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import OURS
from benchmarks.readme import best_library
from benchmarks.tables import Answers, machine_of, number, runs_of, table

Result = dict[str, Any]
ENCODINGS = ("raw", "zstd", "png")


class ClaimError(Exception):
    """A claim has no figure."""


class Figures:
    """The figures of one claim; ``used`` collects the questions or tests that they are from."""

    def __init__(self, runs: Sequence[Answers], results: Sequence[Result]) -> None:
        self.runs, self.results = runs, results
        self.used: list[str] = []

    def of(self, question: str, figure: str) -> dict[str, float]:
        """Return contender -> figure, from the first run that asked the question."""
        self._use(question)
        for answers in self.runs:
            if found := answers.by_name(question, figure):
                return found
        raise ClaimError(f"no run asked the question {question!r}; make bench asks it")

    def ours(self, question: str, figure: str) -> str:
        """Return this package's figures."""
        found = self.of(question, figure)
        return ", ".join(f"`{name}` {number(found[f'{OURS}, {name}'])}" for name in ENCODINGS)

    def theirs(self, question: str, figure: str, *names: str) -> str:
        """Return the figures of these libraries."""
        found = self.of(question, figure)
        return ", ".join(
            f"{name} {number(value)}" for name, value in found.items() if name.startswith(names)
        )

    def rates(self, question: str) -> str:
        """Compare images per second with the baselines, the best library and a tensor."""
        best = best_library([*self.runs], question)
        names = dict.fromkeys(("ImageFolder", "webdataset", best, "tensor in memory"))
        theirs = self.theirs(question, "images_per_second", *names)
        return f"{self.ours(question, 'images_per_second')}; {theirs}"

    def passed(self, test: str) -> list[Result]:
        """Return the figures of a test, of all its parameters.

        Raises:
            ClaimError: it was not run, or did not pass.
        """
        self._use(test)
        found = [
            one for one in self.results if one["test"] == test or one["test"].startswith(f"{test}[")
        ]
        if not found:
            raise ClaimError(f"{test} has no result; make acceptance runs it")
        for one in found:
            if one["outcome"] != "passed":
                raise ClaimError(f"{one['test']}: {one['outcome']}")
        return [one["figures"] for one in found]

    def _use(self, name: str) -> None:
        if name not in self.used:
            self.used.append(name)


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the README, and the function that finds its figure."""

    says: str
    figure: Callable[[Figures], str]


def packing(of: Figures) -> str:
    """Compare packing times."""
    seconds = of.of("pack", "seconds")
    theirs = {
        name: value for name, value in seconds.items() if not name.startswith(OURS) and value > 0.01
    }
    best = min(theirs, key=lambda name: theirs[name])
    return f"{of.ours('pack', 'seconds')} s; {best} {number(theirs[best])} s"


def cpu(of: Figures) -> str:
    """Compare CPU seconds with the best other loader."""
    seconds = of.of("float32", "cpu_seconds_per_million")
    theirs = {name: value for name, value in seconds.items() if not name.startswith(OURS)}
    ours = {name: value for name, value in seconds.items() if name not in theirs}
    our_best, best = (min(part, key=lambda name: part[name]) for part in (ours, theirs))
    ratio = theirs[best] / ours[our_best]
    values = f"{our_best} {number(ours[our_best])}; {best} {number(theirs[best])}"
    return f"{values}, {ratio:.1f} times as many"


def sizes(of: Figures) -> str:
    """Compare bytes per image with the PNG files."""
    found = of.of("pack", "bytes_per_image")
    share = found[f"{OURS}, zstd"] / found["ImageFolder"]
    files = f"the PNG files {number(found['ImageFolder'])}"
    return f"{of.ours('pack', 'bytes_per_image')}; {files}: `zstd` is {share:.2f} of them"


def resumed(of: Figures) -> str:
    """Count kills, and give the time to resume."""
    found = of.passed("test_resume::test_a_killed_run_resumes_to_the_bit")
    kills = sum(one["kills"] for one in found)
    median = statistics.median(one["seconds_to_resume"]["median"] for one in found)
    return f"{kills} kills; {median:.2f} s to resume (median)"


def worlds(of: Figures) -> str:
    """Give the largest number of ranks and threads."""
    found = of.passed("test_order::test_any_world_gives_the_same_batches")
    runs = [run for one in found for run in one["runs: encoding, ranks, threads, epochs"]]
    most = max(one["samples_in_an_epoch"] for one in found)
    ranks, threads = max(run[1] for run in runs), max(run[2] for run in runs)
    return f"1 to {ranks} ranks, 1 to {threads} threads, epochs of {most:,} samples"


def killed_packing(of: Figures) -> str:
    """Count the kills of packing jobs."""
    folder, store = (
        of.passed(f"test_interrupted::{name}")[0]["kills"]
        for name in ("test_a_killed_packing_job_resumes", "test_packing_to_an_object_store")
    )
    clusters = of.passed("test_interrupted::test_packing_on_a_dask_cluster")
    return f"{folder} kills into a folder, {store} into S3; {len(clusters)} dask clusters"


def damage(of: Figures) -> str:
    """Count damaged and hostile files."""
    tried = sum(of.passed("test_damage::test_every_damaged_byte_is_found")[0]["tried"].values())
    attacks = of.passed("test_damage::test_hostile_files_do_no_harm")[0]["attacks"]
    return f"{tried} flips and truncations, {attacks} hostile files"


def pixels(of: Figures) -> str:
    """Count images and sorts of PNG whose pixels were compared."""
    images = sum(
        one["images_compared"]
        for one in of.passed("test_lossless::test_pixels_and_order_are_one_in_every_encoding")
    )
    sorts = len(of.passed("test_lossless::test_odd_pngs")[0]["sorts_of_png"])
    return f"{images:,} images compared with Pillow, {sorts} unusual sorts of PNG"


def faults(of: Figures) -> str:
    """Count requests that failed or stalled."""
    counts = of.passed("test_network::test_faults_change_no_epoch")[0]["requests_by_fault"]
    kinds = {name: count for name, count in counts.items() if name}
    return f"{sum(kinds.values())} of {sum(counts.values())} requests failed, in {len(kinds)} ways"


def restored(of: Figures) -> str:
    """Give the time to restore CIFAR-10."""
    found = of.passed("test_products::test_cifar10_is_restored")[0]["seconds_to_restore"]
    return ", ".join(f"`{name}` {seconds} s" for name, seconds in found.items())


def killed_training(of: Figures) -> str:
    """Count the kills of a training run."""
    test = "test_products::test_a_killed_training_run_ends_with_the_same_weights"
    return f"{len(of.passed(test)[0]['killed_and_resumed_at_step'])} kills"


def one_figure(test: str, figure: str, text: str) -> Callable[[Figures], str]:
    """Return a function that finds one number of a test."""
    return lambda of: text.format(of.passed(test)[0][figure])


MEASURED = (
    Claim("Images a second, warm, as stored (uint8)", lambda of: of.rates("uint8")),
    Claim("Images a second, warm, augmented float32", lambda of: of.rates("float32")),
    Claim("Images a second, cold page cache, uint8", lambda of: of.rates("cold")),
    Claim("CPU seconds of a million augmented images", cpu),
    Claim("Bytes an image", sizes),
    Claim("Packing, compared with the fastest other library", packing),
    Claim(
        "First batch of a fresh process, seconds",
        lambda of: (
            f"{of.ours('first batch', 'seconds')}; "
            f"{of.theirs('first batch', 'seconds', 'ImageFolder', 'webdataset')}"
        ),
    ),
    Claim(
        "Memory of an augmented epoch without mapped files, torch included, MB",
        lambda of: f"{of.ours('memory', 'own_mb')}; {of.theirs('memory', 'own_mb', 'ImageFolder')}",
    ),
    Claim(
        "Images a second from S3 over a slow network",
        lambda of: (
            f"{of.ours('s3', 'images_per_second')}; "
            f"{of.theirs('s3', 'images_per_second', 'webdataset', 'MosaicML', 'LitData')}"
        ),
    ),
)
"""Claims about speed, size and memory."""

TESTED = (
    Claim(
        "`unpack` and plain `tar` restore every file",
        one_figure(
            "test_lossless::test_unpack_and_tar_restore_every_file", "files_restored", "{:,} files"
        ),
    ),
    Claim(
        "The bytes of the shards do not depend on workers or listing order",
        one_figure(
            "test_lossless::test_bytes_depend_on_neither_workers_nor_listing_order",
            "shards_compared",
            "{:,} shards compared",
        ),
    ),
    Claim("Pixels equal Pillow's in every encoding", pixels),
    Claim("Global batches are the same on any number of ranks, each sample exactly once", worlds),
    Claim("After `kill -9`, the rest of an epoch is the same to the bit, on any world", resumed),
    Claim("Packing that is killed or moved to a cluster ends with the same bytes", killed_packing),
    Claim("Damage and hostile files are found and named; no wrong pixel is delivered", damage),
    Claim("Epochs from S3 are the same under network faults", faults),
    Claim(
        "Stock webdataset and `datasets` read the shards",
        lambda of: (
            f"{of.passed('test_readers::test_stock_webdataset')[0]['samples'][0]:,} and "
            f"{of.passed('test_readers::test_stock_datasets')[0]['samples']:,} samples"
        ),
    ),
    Claim("CIFAR-10 comes back complete", restored),
    Claim(
        "CINIC-10 is built from its sources by the published rules",
        one_figure("test_build::test_all_of_cifar10[drawn]", "images", "{:,} images"),
    ),
    Claim("A training run that is killed ends with the same weights", killed_training),
)
"""Claims that are true or false."""

PAGE = """# Claims

What the README says, with the figure behind it and the command that measures it again. Written by
`tools/claims.py` from [evidence.jsonl](evidence.jsonl) and
[plots/benchmarks.jsonl](plots/benchmarks.jsonl); a claim without a figure stops it.
[benchmarks.md](benchmarks.md) and [evidence.md](evidence.md) have all figures.

## Measured

{runs}

`make bench TREE=./cinic BENCH="--questions QUESTION"` asks one question again.

{measured}

## Tested

{machine}; {versions}.

`make acceptance TREE=./cinic ACCEPTANCE="-k NAME"` runs one test again: NAME is what follows `::`.

{tested}
"""


def rows(claims: Sequence[Claim], head: str, runs: list[Answers], results: list[Result]) -> str:
    """Return a table of claims.

    Raises:
        ClaimError: a claim has no figure; the message names the claim.
    """
    lines = []
    for claim in claims:
        of = Figures(runs, results)
        try:
            figure = claim.figure(of)
        except (ClaimError, KeyError, IndexError, ValueError) as error:
            raise ClaimError(f"{claim.says}: no figure: {error}") from error
        lines.append([claim.says, figure, ", ".join(f"`{name}`" for name in of.used)])
    head_line, _, *rest = table(["claim", "figure", head], iter(lines))
    return "\n".join([head_line, "| --- | --- | --- |", *rest])


def page(runs: list[Answers], head: Result, results: list[Result]) -> str:
    """Return the page, in Markdown."""
    machine = machine_of(head)
    return PAGE.format(
        runs="\n\n".join(
            f"Run of {one.run['date']}: {one.run['images']:,} images; {machine_of(one.run)}."
            for one in runs
        ),
        measured=rows(MEASURED, "question", runs, results),
        machine=f"{machine[0].upper()}{machine[1:]}",
        versions=", ".join(f"{name} {value}" for name, value in head["versions"].items()),
        tested=rows(TESTED, "test", runs, results),
    )


def main() -> None:
    """Read the figures, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("docs", type=Path, help="folder of evidence.jsonl and of the page")
    docs = parser.parse_args().docs
    lines = (docs / "evidence.jsonl").read_text(encoding="utf-8").splitlines()
    head, *results = map(json.loads, lines)
    try:
        made = page(runs_of(docs / "plots" / "benchmarks.jsonl"), head, results)
    except ClaimError as error:
        parser.error(str(error))
    (docs / "claims.md").write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
