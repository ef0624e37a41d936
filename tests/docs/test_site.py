"""The site: built without a warning, it fits any window, and loads nothing from a network."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.chromium import missing_programs, open_page

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        find_spec("furo") is None or find_spec("myst_parser") is None,
        reason="NOT RUN: Sphinx is not installed; pip install '.[docs]'",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors: broken links, unknown names, pages in no list."""
    out = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(out / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(out / "html")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_the_commands_are_on_their_page(site: Path) -> None:
    assert 'id="cinic-shard-pack"' in (site / "cli.html").read_text(encoding="utf-8")


@pytest.mark.skipif(
    bool(missing_programs()),
    reason=f"NOT RUN: {' and '.join(missing_programs())} is not installed; on Debian, "
    "apt-get install chromium chromium-driver",
)
@pytest.mark.parametrize("name", ["index", "recipes", "api", "cli", "benchmarks"])
def test_page(site: Path, name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """No message on the console, no request to a server, and no scrolling to the side."""
    shots = pytestconfig.getoption("--screenshots") or tmp_path
    shots.mkdir(parents=True, exist_ok=True)
    too_wide = {}
    with open_page(site / f"{name}.html") as page:
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                page.set_up(width=width, height=900, is_dark=scheme == "dark")
                page.screenshot(shots / f"site-{name}-{width}-{scheme}.png", is_whole=False)
            script = "const root = document.scrollingElement;"
            sizes = page.run(f"{script} return [root.scrollWidth, root.clientWidth]")
            if sizes[0] > sizes[1]:
                too_wide[width] = sizes
        assert page.console() == []
        assert [url for url in page.requests() if not url.startswith("file:")] == []
    assert too_wide == {}
