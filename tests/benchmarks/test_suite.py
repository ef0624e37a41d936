"""The suite on a tiny tree, only for correctness: questions, answers, and the generated page."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from make_demo_tree import make_tree

from benchmarks import readme, tables
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import Contender, Reading, pixels_of, samples_of
from benchmarks.environments import python_of
from benchmarks.processes import Process
from benchmarks.questions import QUESTIONS, with_needed
from benchmarks.runs import Suite, best_settings, medians
from benchmarks.worker import Worker
from tests.support import ROOT
from tests.support.namespaces import can_make_hosts

PER_CLASS = 10
HERE = [name for name, contender in CONTENDERS.items() if contender.environment == "project"]
"""Contenders in the environment of the tests."""
QUICK = ("ImageFolder", "tensor in memory", "cinic-shards, raw")
ELSEWHERE = [name for name in CONTENDERS if name not in HERE]
"""Contenders in environments that ``make bench-env`` makes."""
PUBLISHED = ROOT / "docs" / "plots" / "benchmarks.jsonl"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suite") / "tree"
    make_tree(root, per_class=PER_CLASS, seed=0)
    return root


Ask = Callable[..., dict[str, Any]]
"""Sends a request to a worker: the name of a method and its arguments."""


@pytest.mark.filterwarnings("ignore")  # files that webdataset and datasets leave open
@pytest.mark.parametrize(
    "name",
    [*QUICK, *(pytest.param(name, marks=pytest.mark.real) for name in HERE if name not in QUICK)],
)
def test_a_contender_delivers_every_image_once(name: str, tree: Path, tmp_path: Path) -> None:
    worker = Worker()

    def ask(do: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(worker, do)(**options)
        return answer

    check_contender(ask, name, tree, tmp_path / "out")


@pytest.mark.real
@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_contender_elsewhere_delivers_every_image_once(
    name: str, tree: Path, tmp_path: Path
) -> None:
    python = python_of(CONTENDERS[name].environment)
    if not python.exists():
        pytest.skip(f"no {python}; make bench-env makes it")
    before = sorted(tree.rglob("*"))
    with Process(python, tmp_path / "log") as process:
        if reason := process.ask("describe", contenders=[name])["missing"][name]:
            pytest.skip(reason)
        check_contender(process.ask, name, tree, tmp_path / "out")
    assert sorted(tree.rglob("*")) == before


def check_contender(ask: Ask, name: str, tree: Path, out: Path) -> None:
    """Check labels and pixels of two epochs, as stored and augmented."""
    ask("build", contender=name, split=str(tree / "train"), out=str(out))
    for augmented, kind in ((False, "uint8"), (True, "float32")):
        reading = {"workers": min(CONTENDERS[name].workers), "augmented": augmented}
        ask("open", contender=name, out=str(out), reading=reading | {"batch_size": 64})
        for _ in range(2):
            found = ask("check")
            assert found["labels"] == [PER_CLASS] * 10
            assert found["kind"] == f"{kind} [3, 32, 32]"
            mean, deviation = found["mean"], found["deviation"]
            if augmented:  # black borders lower the mean
                assert -0.4 < mean < 0.1 and 0.8 < deviation < 1.3
            else:
                assert (mean, deviation) == pytest.approx(pixels_of_tree(tree), rel=1e-6)


def pixels_of_tree(tree: Path) -> tuple[float, float]:
    """Return mean and deviation of all pixels, decoded by Pillow."""
    import numpy as np

    images = np.stack([pixels_of(path) for path, _ in samples_of(tree / "train")])
    return float(images.mean()), float(images.std())


def test_a_worker_needs_nothing_but_psutil_at_first() -> None:
    """Other libraries' environments have neither this package's dependencies nor its tests."""
    code = """
import sys
allowed = {*sys.stdlib_module_names, "benchmarks", "psutil"}
import benchmarks.worker
print({name.partition(".")[0] for name in sys.modules} - allowed)
"""
    command = [sys.executable, "-S", "-c", code]
    site = os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": site}
    )
    names = eval(done.stdout)
    assert {name for name in names if not name.startswith("_")} <= {"__main__"}


class Here:
    """A worker in this process; ``processes.Process`` starts a separate one."""

    started = 0.0

    def __init__(self, contender: Contender, **environment: str) -> None:
        self.worker = Worker()
        self.paused = False

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        self.worker.batches = ()

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        assert not self.paused
        answer: dict[str, Any] = getattr(self.worker, do)(**options)
        return answer

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def memory_mb(self) -> dict[str, float]:
        return {"pss_mb": 2.0, "own_mb": 1.0}

    @contextmanager
    def watched(self) -> Iterator[dict[str, float]]:
        yield self.memory_mb()


def suite_of(tree: Path, tmp_path: Path) -> Suite:
    return Suite(
        split=tree / "train", num_images=10 * PER_CLASS, scratch=tmp_path, repeats=2,
        seconds=0.01, latency_seconds=0.0, bytes_a_second=0.0, say=lambda text: None,
    )  # fmt: skip


@pytest.mark.real
def test_questions_of_a_contender(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(tree, tmp_path)
    suite.contenders.append(replace(CONTENDERS["tensor in memory"], workers=(1,)))
    monkeypatch.setattr(suite, "start", Here)
    asked = ("pack", "workers", "uint8", "float32", "cold", "first batch", "memory")
    rows = {name: [*QUESTIONS[name](suite)] for name in asked}
    assert [len(found) for found in rows.values()] == [1] * 7
    (packed,), (plain,), (augmented,) = (rows[name] for name in ("pack", "uint8", "float32"))
    assert packed["bytes_per_image"] > 3072 and packed["bytes_of_pngs"] > 1
    assert plain["kind"] == "uint8 [3, 32, 32]" and plain["every_image_once"]
    assert len(plain["images_per_second_all"]) == 2 and plain["images_per_second"] > 0
    assert augmented["cpu_seconds_per_million"] >= 0
    assert rows["memory"][0]["libraries_mb"] == 1.0
    for name in ("kernels", "decode", "verify"):  # they need our contenders
        assert [row.keys() for row in QUESTIONS[name](suite)] == [{"reason"}]


def contender(name: str) -> Contender:
    """A contender that is never run."""

    def nothing(out: Path, reading: Reading) -> list[Any]:
        return []

    return Contender(name=name, build=lambda split, out: None, epochs=nothing, modules=())


def test_the_best_setting_of_each_library_takes_part() -> None:
    png, raw = contender("library, png"), contender("library, raw")
    ours, other = contender("cinic-shards, png"), contender("cinic-shards, raw")
    rates = {png: {0: 1.0, 2: 5.0}, raw: {0: 3.0}, ours: {1: 9.0, 2: 7.0}, other: {2: 1.0}}
    assert best_settings(rates) == {png: 2, ours: 1, other: 2}


def test_medians_with_all_values(tree: Path, tmp_path: Path) -> None:
    one, two = contender("one"), contender("two")
    labels = {"kind": "uint8", "labels": [PER_CLASS] * 10}
    answers: list[tuple[Contender, int, dict[str, Any]]] = [
        *((one, 2, labels | {"seconds": seconds}) for seconds in (3.0, 1.0, 2.0)),
        *((two, 0, row) for row in ({"seconds": 1.0}, {"error": "gone"})),
    ]
    suite = suite_of(tree, tmp_path)
    error, row = medians(suite, iter(answers))
    assert error == {"error": "gone", "workers": 0}
    assert row["every_image_once"] and row["workers"] == 2
    assert (row["seconds"], row["seconds_all"]) == (2.0, [3.0, 1.0, 2.0])


def test_questions_that_others_need() -> None:
    assert with_needed({"uint8"}) == ["pack", "workers", "uint8"]
    assert with_needed({"verify", "kernels"}) == ["pack", "verify", "kernels"]
    for question in QUESTIONS.values():
        first = (question.__doc__ or "").partition("\n")[0]
        assert first.startswith(("How ", "What ")), question
        assert first.endswith("?")


def test_the_published_pages_are_made_of_the_published_lines() -> None:
    runs = tables.runs_of(PUBLISHED)
    assert f"\n\n{tables.page(runs)}\n\n" in (ROOT / "docs" / "benchmarks.md").read_text()
    text = (ROOT / "README.md").read_text()
    assert readme.written(text, runs) == text
    for theme in readme.THEMES:
        picture = PUBLISHED.with_name(f"readme-{theme}.svg")
        assert readme.plot(runs, theme) == picture.read_text()


def test_blocks_of_a_readme() -> None:
    runs = tables.runs_of(PUBLISHED)
    text = "a\n<!-- plot -->\nprevious\n<!-- end -->\nb\n<!-- encodings -->\n<!-- end -->\n"
    made = readme.written(text, runs)
    assert "previous" not in made and "\nb\n" in made and "FFCV, raw 161,000" in made
    assert "| `zstd` | 1,892 | 380,000 |" in made and readme.written(made, runs) == made
    for wrong in ("no block", text + text, "<!-- end -->\n<!-- figures -->\n"):
        with pytest.raises(ValueError, match="<!-- "):
            readme.written(wrong, runs)


def test_a_later_run_is_a_section(tmp_path: Path) -> None:
    first = PUBLISHED.read_text().splitlines()
    rows = [
        {"question": "run", **json.loads(first[0]), "date": "2027-01-01"},
        {"question": "skipped", "contender": "FFCV, raw", "reason": "no FFCV"},
        {
            "question": "uint8", "contender": "Lance, raw", "images_per_second": 5e5, "workers": 2,
            "every_image_once": True,
        },
    ]  # fmt: skip
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(map(json.dumps, rows)))
    runs = tables.runs_of(PUBLISHED, more)
    before, _, added = tables.page(runs).partition("## Added on 2027-01-01")
    assert before == tables.page(runs[:1]) + "\n\n" and "![" not in added
    assert "| Lance, raw | 500,000 |" in added and "- FFCV, raw: no FFCV" in added
    assert readme.figures(runs) == readme.figures(runs[:1])
    runs[1].rows["uint8"][0]["images_per_second"] = 3e6  # faster than FFCV
    with pytest.raises(ValueError, match=r"Lance, raw is faster than FFCV, raw"):
        readme.figures(runs)
    more.write_text(json.dumps(rows[2]))
    with pytest.raises(ValueError, match="'run' in the first line"):
        tables.runs_of(more)


@pytest.mark.real
def test_the_page_and_its_plots(tmp_path: Path) -> None:
    from benchmarks import plot

    page = tmp_path / "benchmarks.md"
    page.write_text("text")
    with pytest.raises(ValueError, match="expected one line"):
        plot.write_page([PUBLISHED], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.md"]
    page.write_text(f"before\n<!-- {plot.NAME} -->\nnot kept\n<!-- end -->\nafter\n")
    plot.write_page([PUBLISHED], tmp_path)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "not kept" not in text
    for picture in (ROOT / "docs" / "plots").iterdir():
        assert (tmp_path / "plots" / picture.name).stat().st_size > 1000


def run(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.suite", *options]
    return subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.real
def test_the_command(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    done = run(
        *("--tree", tree, "--out", out, "--scratch", tmp_path, "--repeats", 1, "--seconds", 0.1),
        *("--questions", "uint8", "--contenders", "tensor*", "FFCV*"),
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]
    (answers,) = tables.runs_of(out)
    assert answers.rows.keys() - {"skipped"} == {"run", "pack", "workers", "uint8"}
    assert [row["workers"] for row in answers.of("workers")] == [1, 2]
    (row,) = [row for row in answers.of("uint8") if row["contender"].startswith("tensor")]
    assert row["every_image_once"] and row["images_per_second"] > 0
    assert "| tensor in memory |" in tables.page([answers])


def test_mistakes(tree: Path, tmp_path: Path) -> None:
    nobody = run("--tree", tree, "--out", tmp_path / "x", "--contenders", "nobody")
    assert nobody.returncode == 2 and "none of ImageFolder," in nobody.stderr
    nowhere = run("--tree", tmp_path / "nowhere", "--out", tmp_path / "x")
    assert nowhere.returncode == 2 and "no folder" in nowhere.stderr


@pytest.mark.real
def test_every_question(tree: Path, tmp_path: Path) -> None:
    out, contenders = tmp_path / "lines.jsonl", ["webdataset, png", *HERE[-3:]]
    done = run(
        *("--tree", tree, "--out", out, "--scratch", tmp_path, "--repeats", 1, "--seconds", 0.3),
        *("--contenders", *contenders),
    )
    assert done.returncode == 0, done.stderr
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in out.read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["question"], []).append(row)
    assert rows.keys() == {"run", *QUESTIONS}
    unanswered = {row["question"] for row in tables.runs_of(out)[0].failures()}
    assert unanswered == (set() if can_make_hosts() else {"stream"})
    assert {row["contender"] for row in rows["pack"]} == set(contenders)
    assert all(row["every_image_once"] for row in rows["uint8"])
    assert all(row["complete"] for row in rows["s3"])
    assert {row["contender"] for row in rows["decode"]} >= {"pillow", *HERE[-3:]}
    assert list(tmp_path.iterdir()) == [out]
