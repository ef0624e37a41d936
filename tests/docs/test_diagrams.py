"""The diagrams of docs/ can be read by all, and the one of the folders is true."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import ROOT
from tests.test_layout import LEFT_TO_RIGHT, MODULES, folder_of, own_imports

SVG = "{http://www.w3.org/2000/svg}"
DIAGRAMS = sorted((ROOT / "docs" / "diagrams").glob("*.svg"))


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.stem)
def test_diagrams_have_a_text_and_two_colour_schemes(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    assert all(root.find(f"{SVG}{name}").text.strip() for name in ("title", "desc"))
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text


def test_the_diagram_of_the_folders_shows_the_direction_of_imports() -> None:
    root = ElementTree.parse(ROOT / "docs" / "diagrams" / "house.svg").getroot()
    height = {
        word: float(text.get("y"))
        for text in root.iter(f"{SVG}text")
        for word in "".join(text.itertext()).split()
        if word in LEFT_TO_RIGHT and (text.get("class") != "small")
    }
    assert height.keys() == set(LEFT_TO_RIGHT)
    for name in MODULES:
        folder = folder_of(name)
        for other in {folder_of(one) for one in own_imports(name)} - {folder}:
            assert height[other] >= height[folder], f"{folder} imports {other}"
