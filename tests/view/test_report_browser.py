"""The report in a real browser: it loads nothing, filters, works by keyboard, fits any window.

One browser opens all pages. axe-core, from the package ``axe-core-python``, checks accessibility.
"""

import importlib.util
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

from cinic_shards.format.provenance import parse_stem
from cinic_shards.view.report import write_report
from cinic_shards.write.pack import PackOptions, pack
from tests.support.chromium import Page, missing_programs, open_page

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"NOT RUN: {' and '.join(missing_programs())} is not installed; on Debian, "
        "apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def file(encoded: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on 540 images, of which about 300 can be browsed."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report(encoded["png"], out, sample=300, workers=1)
    return out


@pytest.fixture(scope="module")
def browser(file: Path) -> Iterator[Page]:
    with open_page(file) as page:
        page.driver.set_script_timeout(120)
        yield page


@pytest.fixture
def page(browser: Page, file: Path) -> Page:
    """The report in a large window, loaded again."""
    browser.set_up(width=1280, height=900, is_dark=False)
    browser.open(file)
    return browser


def photographs(folder: Path) -> Path:
    """Draw 200 classes of large images in several sizes."""
    rng = np.random.default_rng(0)
    for label in range(200):
        path = folder / "train" / f"n{label:08} long-haired class" / "one.png"
        path.parent.mkdir(parents=True)
        size = (12, 8, 3) if label else (40, 100, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module", params=["ten classes", "200 classes", "one image", "damaged"])
def any_file(
    request: pytest.FixtureRequest,
    file: Path,
    encoded: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Reports on different datasets."""
    if request.param == "ten classes":
        return file
    folder = tmp_path_factory.mktemp("other")
    if request.param == "damaged":
        shutil.copytree(encoded["png"], folder / "shards")
        shard = min((folder / "shards").glob("train-*.tar"))
        data = bytearray(shard.read_bytes())
        for offset in range(600, 100_000, 2_500):
            data[offset] ^= 1
        shard.write_bytes(data)
    elif request.param == "200 classes":
        tree = photographs(folder / "tree")
        pack(tree, folder / "shards", workers=1, warn=lambda text: None)
    else:
        (folder / "tree" / "train" / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32), "green").save(folder / "tree" / "train" / "cat" / "a.png")
        pack(folder / "tree", folder / "shards", workers=1, warn=lambda text: None)
    write_report(folder / "shards", folder / "r.html", sample=100, workers=1)
    return folder / "r.html"


@pytest.fixture(scope="module")
def keys(encoded_tree: Path) -> list[str]:
    """The keys of all images."""
    files = encoded_tree.glob("*/*/*.png")
    return ["/".join(path.with_suffix("").parts[-3:]) for path in files]


def numbers(page: Page) -> tuple[int, int]:
    """Return how many images of the sample and of the dataset match, as shown on the page."""
    found = re.fullmatch(
        r"Showing [\d,]+ of ([\d,]+) matching images? in the sample \(([\d,]+) in the dataset\).",
        page.text("#status"),
    )
    assert found, page.text("#status")
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def sample_keys(page: Page) -> list[str]:
    """Return the keys of the images that can be browsed."""
    data = json.loads(page.text("#data"))
    images = data["images"]
    columns = zip(images["split"], images["class"], images["stem"], strict=True)
    return [f"{data['splits'][s]}/{data['classes'][c]}/{stem}" for s, c, stem in columns]


def open_key(page: Page) -> str:
    """Return the key in the open dialog; empty if none is open."""
    is_open = page.run("return document.getElementById('details').open")
    return page.text("#details-key") if is_open else ""


def is_wider_than_the_window(page: Page) -> bool:
    script = "return [root.scrollWidth, root.clientWidth]"
    scroll, client = page.run(f"const root = document.documentElement; {script}")
    return bool(scroll > client)


def focused(page: Page) -> str:
    return str(page.run("return document.activeElement.getAttribute('aria-label') || ''"))


def test_it_opens_without_messages_and_loads_nothing(page: Page) -> None:
    assert page.console() == []
    assert page.requests() == []
    assert page.run("return document.title") == "CINIC-10: a report"
    assert len(page.find_all("#grid button")) == 192


def test_the_page_may_not_load_anything(page: Page) -> None:
    """The browser blocks it even if a script tries."""
    blocked = page.driver.execute_async_script("""
        const done = arguments[0];
        const found = [];
        document.addEventListener("securitypolicyviolation", (event) => {
          found.push(event.effectiveDirective);
          if (found.length === 3) done(found.sort());
        });
        const image = new Image();
        image.src = "http://127.0.0.1:9/a.png";
        fetch("http://127.0.0.1:9/b").catch(() => 0);
        const script = document.createElement("script");
        script.textContent = "window.wasTricked = true";
        document.body.append(script);
    """)  # type: ignore[no-untyped-call]
    assert blocked == ["connect-src", "img-src", "script-src-elem"]
    assert page.run("return window.wasTricked") is None


def test_filters(page: Page, keys: list[str]) -> None:
    in_sample = sample_keys(page)
    assert numbers(page) == (len(in_sample), 540)
    assert page.choose("#filter-split", "valid") == "valid (180)"
    assert page.choose("#filter-class", "cat") == "cat (18)"

    def matching(of: list[str]) -> list[str]:
        return [key for key in of if key.startswith("valid/cat/")]

    assert numbers(page) == (len(matching(in_sample)), 18)
    labels = [button.get_attribute("aria-label") for button in page.find_all("#grid button")]
    assert labels == matching(in_sample)
    synsets = Counter(parse_stem(key.rpartition("/")[2]).synset for key in matching(keys))
    options = [option.text for option in page.find_all("#filter-synset option")]
    assert options == [
        "any (18)",
        *(f"{synset or 'none'} ({count})" for synset, count in sorted(synsets.items())),
    ]
    # The counts of a filter's options depend only on the other filters.
    splits = [option.text for option in page.find_all("#filter-split option")]
    assert splits == ["any (54)", "train (18)", "valid (18)", "test (18)"]
    synset = sorted(synsets)[-1]
    page.choose("#filter-synset", synset)
    assert numbers(page)[1] == synsets[synset]
    assert numbers(page)[0] == len(page.find_all("#grid button"))
    page.choose("#filter-synset", "any")
    assert page.choose("#filter-origin", "CIFAR-10 train") == "CIFAR-10 train (4)"
    page.find(".filters button").click()
    page.run("return new Promise((done) => setTimeout(done))")
    assert numbers(page) == (len(in_sample), 540)
    assert page.console() == []


def test_a_click_shows_an_image_and_its_provenance(page: Page) -> None:
    in_sample = sample_keys(page)
    for place in (0, 7, 100):
        page.find_all("#grid button")[place].click()
        assert open_key(page) == in_sample[place]
        origin = parse_stem(in_sample[place].rpartition("/")[2])
        facts = page.text("#details-facts")
        assert f"image {origin.number}" in facts
        assert (origin.synset or "CIFAR-10") in facts
        page.find("#close").click()
        assert open_key(page) == ""
        assert focused(page) == in_sample[place]


def test_the_picture_is_the_image(page: Page, encoded_tree: Path, tmp_path: Path) -> None:
    """Every pixel is exact, enlarged 8 times."""
    page.find_all("#grid button")[3].click()
    expected = np.asarray(Image.open(encoded_tree / f"{open_key(page)}.png").convert("RGB"))
    page.screenshot(tmp_path / "dialog.png", is_whole=False)
    box = page.run("""
        const box = document.getElementById("details-picture").getBoundingClientRect();
        return [box.x, box.y, box.width, box.height]""")
    x, y, width, height = (round(value) for value in box)
    assert (width, height) == (256, 256)
    shown = np.asarray(Image.open(tmp_path / "dialog.png").convert("RGB"))
    middles = shown[y + 4 : y + height : 8, x + 4 : x + width : 8]
    np.testing.assert_array_equal(middles, expected)


def test_the_keyboard_is_enough(page: Page) -> None:
    in_sample = sample_keys(page)
    page.find("#filter-synset").send_keys("")
    page.press(Keys.TAB, Keys.TAB)  # "Clear", then the grid
    assert focused(page) == in_sample[0]
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert focused(page) == in_sample[1]
    tops = page.run("return [...document.querySelectorAll('#grid li')].map((li) => li.offsetTop)")
    per_row = tops.count(tops[0])
    page.press(Keys.ARROW_DOWN)
    assert focused(page) == in_sample[1 + per_row]
    page.press(Keys.ARROW_UP, Keys.ARROW_UP)  # no row above
    assert focused(page) == in_sample[1]
    outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.press(Keys.ENTER)
    assert open_key(page) == in_sample[1]
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert open_key(page) == in_sample[3]
    page.press(Keys.ESCAPE)
    assert open_key(page) == "" and focused(page) == in_sample[3]
    page.press(Keys.END, Keys.ARROW_RIGHT)  # the next images are drawn when they are reached
    assert focused(page) == in_sample[192]
    assert len(page.find_all("#grid button")) == len(in_sample)
    assert not page.find("#more").is_displayed()


def look(browser: Page, any_file: Path, *, width: int, is_dark: bool) -> Page:
    """Open a report with everything unfolded."""
    browser.set_up(width=width, height=900, is_dark=is_dark)
    browser.open(any_file)
    browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    return browser


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_window(
    browser: Page, any_file: Path, width: int, is_dark: bool, tmp_path: Path
) -> None:
    page = look(browser, any_file, width=width, is_dark=is_dark)
    assert not is_wider_than_the_window(page)
    page.find("#grid button").click()
    assert not is_wider_than_the_window(page)
    box = page.run("""
        const box = document.getElementById("details").getBoundingClientRect();
        return [box.left, box.right]""")
    assert box[0] >= 0 and box[1] <= width
    page.find("#close").click()
    colours = page.run("""
        const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color]""")
    paper, ink = (
        sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
        for colour in colours
    )
    assert paper < ink if is_dark else ink < paper
    page.screenshot(tmp_path / "page.png")
    corner = Image.open(tmp_path / "page.png").convert("RGB").getpixel((0, 0))
    assert isinstance(corner, tuple) and sum(corner) == paper
    assert page.console() == [] and page.requests() == []


@pytest.mark.skipif(
    importlib.util.find_spec("axe_core_python") is None,
    reason="NOT RUN: axe-core-python is not installed; pip install -e '.[dev]'",
)
@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (390, True)], ids=["light", "dark"])
def test_it_is_accessible(browser: Page, any_file: Path, width: int, is_dark: bool) -> None:
    """Axe finds nothing, nor in the dialog; it measures the contrast of every text."""
    page = look(browser, any_file, width=width, is_dark=is_dark)
    # It does not measure contrast over a gradient.
    page.run(
        "document.querySelectorAll('.table').forEach((one) => (one.style.background = 'none'))"
    )
    page.run(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    for has_dialog in (False, True):
        if has_dialog:
            page.find("#grid button").click()
        found = page.driver.execute_async_script("""
            const done = arguments[0];
            axe.run({ resultTypes: ["violations"] }).then(
              ({ violations }) => done(violations.map((one) => `${one.id}: ${one.nodes[0].html}`)),
              (error) => done([String(error)]));
        """)  # type: ignore[no-untyped-call]
        assert found == []


def test_damaged_images_are_named(browser: Page, any_file: Path) -> None:
    page = look(browser, any_file, width=1280, is_dark=False)
    verdict, first = page.text("header .verdict"), page.text("main h2")
    if verdict.startswith("Intact"):
        assert first == "Samples"
        return
    assert first == "Integrity" and re.fullmatch(
        r"Damaged: \d+ faults in 1 file; \d+ images cannot be read", verdict
    )
    damaged = page.find_all("#grid button[aria-label$=', damaged']")
    assert damaged
    damaged[0].click()
    assert "nothing: the image is damaged" in page.text("#details-facts")
    assert page.text("#details-position").endswith(f" of {len(sample_keys(page))}")


def test_every_control_has_a_name(page: Page) -> None:
    nameless = page.run("""
        return [...document.querySelectorAll("button, select, [role=img], [role=group], ul#grid")]
          .filter((one) => !one.textContent.trim() && !one.getAttribute("aria-label")
                           && !(one.labels && one.labels.length))
          .map((one) => one.outerHTML.slice(0, 100))""")
    assert nameless == []
    assert page.run("return document.querySelectorAll('h1').length") == 1


def test_names_are_not_markup(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    evil = "<script>window.wasTricked=1<script>", '"><img src=x onerror=window.wasTricked=1>'
    for name in evil:
        for number in range(3):
            path = tmp_path / "tree" / "train" / name / f"<b>&amp;{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    pack(tmp_path / "tree", tmp_path / "out", PackOptions(), workers=1, warn=lambda text: None)
    write_report(tmp_path / "out", tmp_path / "r.html", title=f"</title>{evil[0]}", workers=1)
    with open_page(tmp_path / "r.html") as page:
        assert page.console() == [] and page.requests() == []
        assert page.run("return window.wasTricked") is None
        assert page.run("return document.querySelectorAll('img, b').length") == 0
        assert page.text("h1") == f"</title>{evil[0]}"
        options = [option.text for option in page.find_all("#filter-class option")]
        assert options == ["any (6)", *(f"{name} (3)" for name in sorted(evil))]
        page.find("#grid button").click()
        assert open_key(page) in {f"train/{name}/<b>&amp;{n}" for name in evil for n in range(3)}
