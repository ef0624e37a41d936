"""Trees to accept the package on: the one of ``--tree``, or small ones."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from make_demo_tree import make_tree

from tests.acceptance.results import Results
from tests.acceptance.trees import PHOTOGRAPHS, Tree

HERE = Path(__file__).parent
RESULTS = pytest.StashKey[Results]()
SECONDS = pytest.StashKey[float]()
OPTIONS = ("--shard-size", "160", "--block-size", "16")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--results"):
        config.stash[RESULTS] = Results(path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport]:
    report: pytest.TestReport = yield
    results = item.config.stash.get(RESULTS, None)
    seconds = item.stash[SECONDS] = item.stash.get(SECONDS, 0.0) + report.duration
    if results and (report.when == "call" or report.outcome != "passed"):
        results.add(item, report, seconds)
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if results := config.stash.get(RESULTS, None):
        terminalreporter.section(f"acceptance: {results.path}")
        for line in results.table():
            terminalreporter.write_line(line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "tree" in metafunc.fixturenames:
        given = metafunc.config.getoption("--tree")
        names = ["given"] if given else ["drawn", "photographs"]
        metafunc.parametrize("tree", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def given_tree(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The tree of ``--tree``."""
    folder = pytestconfig.getoption("--tree").resolve()
    return Tree(folder, "given", tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="session")
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The given tree; without one 3,000 drawn images, then 1,890 photographs."""
    if request.param == "given":
        found: Tree = request.getfixturevalue("given_tree")
        return found
    if request.param == "drawn":
        drawn: Tree = request.getfixturevalue("small_tree")
        return drawn
    if not PHOTOGRAPHS.exists():
        pytest.skip(f"NOT RUN: {PHOTOGRAPHS.name} is not here")
    scratch = tmp_path_factory.mktemp(request.param)
    with tarfile.open(PHOTOGRAPHS) as archive:
        archive.extractall(scratch / "tree", filter="data")
    return Tree(scratch / "tree", request.param, scratch, OPTIONS)


@pytest.fixture(scope="session")
def small_tree(
    request: pytest.FixtureRequest,
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tree:
    """The given tree; without one 3,000 drawn images."""
    if pytestconfig.getoption("--tree"):
        found: Tree = request.getfixturevalue("given_tree")
        return found
    scratch = tmp_path_factory.mktemp("small")
    make_tree(scratch / "tree", per_class=100, seed=0)
    return Tree(scratch / "tree", "drawn", scratch, OPTIONS)
