"""The report's content: numbers and tiles match the dataset, and no text becomes markup."""

import base64
import io
import json
import re
import shutil
from collections import Counter
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.errors import FormatError, OptionError, OutputError, StoreError
from cinic_shards.read.dataset import Dataset
from cinic_shards.view.duplicates import find_duplicates
from cinic_shards.view.report import content as content_module
from cinic_shards.view.report import write_report
from cinic_shards.view.report.charts import Chart, Series, highest_share
from cinic_shards.view.report.page import TEMPLATES
from cinic_shards.view.report.sprites import COLUMNS, REDUCED_SIDE, TILES
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run


class Page(HTMLParser):
    """A report as a browser reads it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        """(element, attribute, value)."""
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.data: dict[str, Any] = json.loads(self.script("data"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open) and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def script(self, name: str) -> str:
        """Return the content of the script element with this id."""
        found = re.search(rf'<script[^>]* id="{name}">(.*?)</script>', self.source, re.DOTALL)
        assert found
        return found[1]

    def table(self, caption: str) -> list[list[str]]:
        """Return the rows of the table with this caption, the header first."""
        pattern = rf"<caption>{re.escape(caption)}</caption>(.*?)</table>"
        found = re.search(pattern, self.source, re.DOTALL)
        assert found, caption
        rows = re.findall(r"<tr.*?>(.*?)</tr>", found[1], re.DOTALL)
        return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]

    def tile(self, number: int, side: int) -> NDArray[np.uint8]:
        """Return the pixels of a tile, uint8 (side, side, 3)."""
        top, left = number % TILES // COLUMNS * side, number % TILES % COLUMNS * side
        return self.sheets[number // TILES][top : top + side, left : left + side]

    @cached_property
    def sheets(self) -> list[NDArray[np.uint8]]:
        """The pixels of each sheet."""
        return [np.asarray(picture.convert("RGB")) for picture in self.pictures]

    @property
    def pictures(self) -> list[Image.Image]:
        """The sheets in the page."""
        uris = re.findall(r"\.sheet-\d+\{[^}]*url\(data:image/\w+;base64,([^)]*)\)", self.source)
        files = [io.BytesIO(base64.b64decode(uri)) for uri in uris]
        return [Image.open(file) for file in files]

    def keys(self) -> list[str]:
        """Return the keys of the images that can be browsed."""
        images = self.data["images"]
        return [
            f"{self.data['splits'][split]}/{self.data['classes'][label]}/{stem}"
            for split, label, stem in zip(
                images["split"], images["class"], images["stem"], strict=True
            )
        ]


@pytest.fixture(scope="module")
def reports(encoded: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Encoding -> its report, with a sample of about 200 of 540 images."""
    folder = tmp_path_factory.mktemp("reports")
    for encoding, shards in encoded.items():
        write_report(shards, folder / f"{encoding}.html", sample=200, seed=3, workers=1)
    return {encoding: Page(folder / f"{encoding}.html") for encoding in encoded}


def test_facts_about_the_dataset(reports: dict[str, Page], encoded: dict[str, Path]) -> None:
    for encoding, page in reports.items():
        manifest = Dataset(encoded[encoding]).manifest
        for text in (
            "CINIC-10", "540", manifest.licence, manifest.citation, manifest.fingerprint,
            f"{encoding}, blocks of 16 images", "Intact: every byte checked",
            *(f"{name} {version}" for name, version in manifest.libraries.items()),
        ):  # fmt: skip
            assert text in page.text, text
        shards = page.table("Shards and their SHA-256")[1:]
        assert [(row[0], row[3]) for row in shards] == [
            (shard.name, shard.sha256) for split in manifest.splits for shard in split.shards
        ]
        assert str(encoded[encoding].parent) not in page.source  # the path is private


def test_counts(reports: dict[str, Page], encoded: dict[str, Path]) -> None:
    columns = Dataset(encoded["png"]).columns
    for page in reports.values():
        assert page.table("By origin")[1:] == [
            ["CIFAR-10 test", "0", "0", "20", "20"],
            ["CIFAR-10 train", "40", "40", "20", "100"],
            ["ImageNet", "140", "140", "140", "420"],
        ]
        assert page.table("By class")[:2] == [
            ["Class", "train", "valid", "test", "all"],
            ["airplane", "18", "18", "18", "54"],
        ]
        by_split = page.table("By split")
        assert [row[:2] for row in by_split[1:]] == [
            ["train", "180"], ["valid", "180"], ["test", "180"], ["all", "540"],
        ]  # fmt: skip
        synsets = {row[0]: int(row[-1]) for row in page.table("By ImageNet synset")[1:]}
        assert synsets == Counter(columns.synset[columns.synset != ""].tolist())
        # The image browser's numbers are sums of these cells.
        names = page.data["splits"], page.data["classes"], page.data["origins"]
        cells: Counter[tuple[str, str, str, str]] = Counter()
        for split, label, origin, synset, count in page.data["cells"]:
            cells[names[0][split], names[1][label], names[2][origin],
                  page.data["synsets"][synset]] += count  # fmt: skip
        classes = np.array(Dataset(encoded["png"]).manifest.classes)
        assert cells == Counter(
            zip(columns.split.tolist(), classes[columns.labels].tolist(), columns.origin.tolist(),
                columns.synset.tolist(), strict=True)
        )  # fmt: skip


def test_the_sample(reports: dict[str, Page], encoded: dict[str, Path]) -> None:
    columns = Dataset(encoded["png"]).columns
    for page in reports.values():
        keys = page.keys()
        assert len(set(keys)) == len(keys) and abs(len(keys) - 200) <= 80
        assert keys == columns.keys[page.data["images"]["id"]].tolist()
        assert page.data["images"]["number"] == columns.number[page.data["images"]["id"]].tolist()
        what = f"A random sample of {len(keys)} of the dataset’s 540 images (seed 3)"
        assert what in page.text
        assert keys == reports["png"].keys()
        splits = Counter(key.partition("/")[0] for key in keys)
        assert len(splits) == 3 and max(splits.values()) - min(splits.values()) <= 30


def test_tiles_have_exactly_the_images_pixels(reports: dict[str, Page], encoded_tree: Path) -> None:
    for page in reports.values():
        assert page.data["isExact"]
        for number, key in enumerate(page.keys()):
            expected = np.asarray(Image.open(encoded_tree / f"{key}.png").convert("RGB"))
            np.testing.assert_array_equal(page.tile(number, 32), expected)


def test_montages_show_each_class_in_its_row(reports: dict[str, Page]) -> None:
    page = reports["png"]
    keys = page.keys()
    figures = re.findall(r'<figure class="montage">(.*?)</figure>', page.source, re.DOTALL)
    assert len(figures) == 2
    for figure, prefix in zip(figures, ("cifar", ""), strict=True):
        rows = re.findall(r'<span class="name" title=".*?">(.*?)</span>(.*?)</div>', figure)
        assert [name for name, _ in rows] == page.data["classes"]
        for name, row in rows:
            tiles = re.findall(r'tile sheet-(\d+)" style="--x:(\d+);--y:(\d+)"', row)
            numbers = [int(s) * TILES + int(y) * COLUMNS + int(x) for s, x, y in tiles]
            assert len(set(numbers)) == len(numbers) > 0
            for number in numbers:
                _, class_name, stem = keys[number].split("/")
                assert class_name == name and stem.startswith(prefix)


def test_one_dataset_and_seed_give_one_page(encoded: dict[str, Path], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_report(encoded["raw"], tmp_path / name, sample=50, seed=seed, workers=1)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_intensities(reports: dict[str, Page], encoded: dict[str, Path]) -> None:
    manifest = Dataset(encoded["png"]).manifest
    for page in reports.values():
        rows = page.table("Means and standard deviations, on the scale 0 to 1")[1:]
        assert [row[0] for row in rows] == [
            "CIFAR-10", "ImageNet", "Split train", "Split valid", "Split test", "All",
        ]  # fmt: skip
        expected = [f"{value:.6f}" for value in (*manifest.pixels.mean, *manifest.pixels.std)]
        assert rows[-1][1:] == expected
        assert page.tags["svg"] == 3 and page.source.count('class="mean s1"') == 3


def test_a_histogram() -> None:
    counts = np.zeros((3, 256), np.int64)
    counts[:, 100], counts[:, 255] = 1, 3
    half = np.full((3, 256), 7, np.int64)
    series = [Series("A & B", counts), Series("flat", half)]
    assert series[0].mean[0] == pytest.approx((100 + 3 * 255) / 4 / 255)
    top = highest_share(series)
    assert top == pytest.approx(1.12 * 0.25)  # the bin of white does not count
    chart = Chart(series, 2, "blue", top)
    drawing = TEMPLATES.get_template("chart.html").render(chart=chart)
    assert "A &amp; B mean 0.848; flat mean 0.500" in drawing
    lines = re.findall(r'<polyline class="line s\d" points="(.*?)"', drawing)
    points = [[tuple(map(float, p.split(","))) for p in line.split()] for line in lines]
    assert [len(line) for line in points] == [256, 256]
    assert min(y for _, y in points[0]) == points[0][255][1]  # cut at the top
    assert len({y for _, y in points[1]}) == 1
    assert highest_share([Series("black", np.eye(1, 256, dtype=np.int64).repeat(3, 0))]) == 1


def copies(tmp_path: Path, tree: Path, layout: dict[str, int]) -> Path:
    """Pack copies of numbered images: key -> number."""
    images = sorted(tree.glob("*/*/*.png"))
    for name, number in layout.items():
        path = tmp_path / "tree" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images[number], path)
    pack(tmp_path / "tree", tmp_path / "shards", workers=1, warn=lambda text: None)
    return tmp_path / "shards"


def test_duplicates(tmp_path: Path, demo_tree: Path) -> None:
    layout = {f"train/cat/{n}": n for n in range(20)} | {
        "train/cat/twin": 0, "test/cat/a": 1, "test/dog/b": 1, "train/dog/c": 1, "test/dog/d": 1,
        "valid/dog/e": 1,
    }  # fmt: skip
    shards = copies(tmp_path, demo_tree, layout)
    write_report(shards, tmp_path / "r.html", sample=1, workers=1)
    page = Page(tmp_path / "r.html")
    text = "2 images have duplicates with the same pixels; 1 of these is in several splits."
    assert text in page.text
    title = "Duplicate images, by the class of the first one and by split"
    rows = page.table(title)
    assert rows[0][1:3] == ["train", "test"] and rows[-2][0] == "all"
    assert rows[-1][0] == "of these, in several classes"
    twins = re.search(r'<ul class="twins">(.*)</ul>\s*</section>', page.source, re.DOTALL)
    assert twins
    labels = re.findall(r'aria-label="(.*?)"', twins[1])
    assert len(labels) == 4 + 2 and "and 2 more" in page.text
    assert set(labels[:4]) < {"test/cat/a", "test/dog/b", "train/dog/c", "test/dog/d",
                              "valid/dog/e", "train/cat/1"}  # fmt: skip
    assert set(labels[4:]) == {"train/cat/0", "train/cat/twin"}
    tiles = re.findall(r'tile sheet-0" style="--x:(\d+);--y:(\d+)"', twins[1])
    for label, (x, y) in zip(labels, tiles, strict=True):
        expected = np.asarray(Image.open(tmp_path / "tree" / f"{label}.png").convert("RGB"))
        np.testing.assert_array_equal(page.tile(int(y) * COLUMNS + int(x), 32), expected)


def test_only_some_of_many_duplicates_are_shown(
    tmp_path: Path, demo_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = {f"{split}/cat/{n}": n for split in ("train", "test") for n in range(5)}
    shards = copies(tmp_path, demo_tree, layout)
    dataset = Dataset(shards)
    assert len(find_duplicates(dataset.store, dataset.manifest).groups) == 5
    monkeypatch.setattr(content_module, "MAX_DUPLICATES_SHOWN", 3)
    write_report(shards, tmp_path / "r.html", workers=1)
    text = Page(tmp_path / "r.html").text
    assert "2 more are not shown; cinic-shard info --duplicates --json lists all of them." in text


def test_no_duplicates(tmp_path: Path, demo_tree: Path) -> None:
    shards = copies(tmp_path, demo_tree, {f"train/cat/{n}": n for n in range(4)})
    write_report(shards, tmp_path / "r.html", workers=1)
    page = Page(tmp_path / "r.html")
    assert "No two images have the same pixels." in page.text
    assert "All of the dataset’s images." in page.text


def test_a_different_dataset(tmp_path: Path) -> None:
    """One split, large images of several sizes, names without an origin, many classes."""
    rng = np.random.default_rng(0)
    for label in range(45):
        path = tmp_path / "tree" / "photos" / f"class {label:02d}" / "one.png"
        path.parent.mkdir(parents=True)
        size = (60 + label, 100, 3) if label % 2 else (20, 10, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    shards = tmp_path / "my shards"
    pack(tmp_path / "tree", shards, PackOptions(block_size=4), workers=1, warn=lambda text: None)
    write_report(shards, tmp_path / "r.html", workers=1)
    page = Page(tmp_path / "r.html")
    for text in (
        "my shards",
        "No licence and no citation: not all files have names as in CINIC-10.",
        "No counts by origin: the file names do not contain it.",
        "25 more classes",
        "By class (45 rows)",
        "the 10 most common of 23",
        "Images are shown at a reduced size.",
        "All images mean",
    ):
        assert text in page.text or text in page.source, text
    assert page.data["isExact"] is False
    montage = page.source.partition('<figure class="montage">')[2].partition("</figure>")[0]
    assert montage.count('class="montage-row"') == 45
    assert page.source.count('data-facet="') == 1 and 'data-facet="class"' in page.source
    small = page.keys().index("photos/class 00/one")
    row, column = divmod(small, COLUMNS)
    y, x = (REDUCED_SIDE * number + REDUCED_SIDE // 2 for number in (row, column))
    alpha = np.asarray(page.pictures[0])[:, :, 3]
    assert alpha[y, x] == 255 and alpha[y, x - 20] == 0  # in and beside a small image
    assert Page(tmp_path / "r.html").table("By class")[-1] == ["class 44", "1"]


def test_damage_is_on_the_page(encoded: dict[str, Path], tmp_path: Path) -> None:
    shards = Path(shutil.copytree(encoded["png"], tmp_path / "shards"))
    path = sorted(shards.glob("valid-*.tar"))[0]
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    (shards / "notes.txt").write_text("")
    content = write_report(shards, tmp_path / "r.html", workers=1)
    assert len(content.unreadable) == 1
    page = Page(tmp_path / "r.html")
    faults = len(content.verification.faults)
    assert f"Damaged: {faults} faults in 1 file; 1 image cannot be read" in page.text
    assert "Intact" not in page.text
    assert [value for _, name, value in page.attributes if name == "href"][2] == "#integrity"
    assert page.table("Faults by file")[1:] == [[path.name, str(faults)]]
    assert all(str(fault) in page.text for fault in content.verification.faults)
    assert "1 image is damaged and not in the charts." in page.text
    assert "Not part of the dataset: notes.txt." in page.text
    bad = page.data["images"]["isUnreadable"].index(True)
    assert page.data["images"]["isUnreadable"].count(True) == 1
    assert page.data["images"]["id"][bad] == content.unreadable[0].position
    tile = page.tile(bad, 32).astype(int)  # a red cross
    assert (tile[range(32), range(32), 0] - tile[range(32), range(32), 1] > 100).all()
    data[-2000] ^= 1  # in the index, without which nothing can be reported
    path.write_bytes(data)
    with pytest.raises(FormatError, match="its index has SHA-256"):
        write_report(shards, tmp_path / "none.html", workers=1)
    assert not (tmp_path / "none.html").exists()
    write_report(encoded["png"], tmp_path / "q.html", quick=True, workers=1)
    quick = Page(tmp_path / "q.html").text
    assert "Intact: digests checked" in quick and "no image was decoded for this check" in quick


def test_names_are_not_markup(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    evil = ["<script>alert(1)<script>", '"><img src=x onerror=alert(1)>', "<!--", "'&lt;é😀"]
    for name in evil:
        for split in ("train", "test"):
            path = tmp_path / "tree" / split / name / f"<b>{len(name)}.png"
            path.parent.mkdir(parents=True)
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(path)
            Image.fromarray(pixels).save(path.with_name("twin.png"))
    shards = tmp_path / "<i>shards"
    pack(tmp_path / "tree", shards, workers=1, warn=lambda text: None)
    for title in (None, "</title></h1><script>alert(1)</script>"):
        write_report(shards, tmp_path / "r.html", title=title, workers=1)
        page = Page(tmp_path / "r.html")
        assert page.tags["script"] == 2
        assert not {"img", "b", "i", "iframe", "object"} & set(page.tags)
        assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
        assert set(page.keys()) == {
            f"{split}/{name}/{stem}"
            for split in ("train", "test")
            for name in evil
            for stem in (f"<b>{len(name)}", "twin")
        }
        assert (title or "<i>shards") in page.texts
        assert all(name in page.texts for name in evil)


def test_nothing_is_loaded(reports: dict[str, Page]) -> None:
    page = reports["png"]
    (policy,) = (value for _, name, value in page.attributes if "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:;") and "http" not in policy
    targets = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith("#") or value == "data:," for value in targets)
    assert re.findall(r"url\((?!data:)", page.source) == []
    script = page.source.rpartition("<script>")[2]
    assert not re.search(r"https?:|fetch|XMLHttpRequest|import\(|innerHTML|eval", script)


def test_it_is_written_completely_or_not_at_all(
    encoded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.html"
    for place, error, message in (
        (tmp_path / "nothing", StoreError, "no dataset"),
        (encoded["png"], OutputError, "there is no folder"),
    ):
        path = tmp_path / "no" / "r.html" if error is OutputError else out
        with pytest.raises(error, match=message):
            write_report(place, path, workers=1)
    with pytest.raises(OptionError, match="sample=0: expected an integer, at least 1"):
        write_report(encoded["png"], out, sample=0)
    out.write_text("an older one")

    def fail(*args: object, **options: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("cinic_shards.view.report.make_page", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report(encoded["raw"], out, sample=10, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    assert out.read_text() == "an older one"


def test_the_command(encoded: dict[str, Path], tmp_path: Path, run: Run) -> None:
    out = tmp_path / "r.html"
    options = ["--sample", 60, "--seed", 2, "--title", "Ours", "--quick", "--workers", 1]
    status, text, errors = run("report", encoded["zstd"], "-o", out, *options)
    assert status == 0 and errors == ""
    assert re.fullmatch(rf"\d\.\d MB, \d+\.\d s: {re.escape(str(out))}\n", text)
    write_report(encoded["zstd"], tmp_path / "s.html", sample=60, seed=2, title="Ours", quick=True)
    assert out.read_bytes() == (tmp_path / "s.html").read_bytes()
    assert run("report", tmp_path, "-o", out, "--quiet")[0] == 1
    assert run("report", encoded["zstd"], "-o", out, "--seed", -1)[0] == 2


@pytest.mark.real
def test_of_a_url(encoded: dict[str, Path], web: str, web_root: Path, tmp_path: Path) -> None:
    for encoding, shards in encoded.items():
        shutil.copytree(shards, web_root / f"report-{encoding}")
        url = f"{web}/report-{encoding}"
        write_report(url, tmp_path / "r.html", sample=100, workers=2)
        write_report(shards, tmp_path / "s.html", sample=100, workers=2)
        there, here = Page(tmp_path / "r.html"), Page(tmp_path / "s.html")
        assert url in there.text
        assert there.source.replace(url, encoding) == here.source
