"""Montages show the right samples in the right rows, the same for a seed; stratified samples."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cinic_shards.errors import OptionError, OutputError
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.view.montage import draw, fit, show, stratified
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run

CELL, GAP = 64, 4


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one colour: red is the class, green the split, blue the number."""
    root = tmp_path_factory.mktemp("flat")
    for split_code, split in enumerate(("test", "train")):
        for class_code, name in enumerate(("cat", "dog")):
            for number in range(20):
                folder = root / "tree" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                synset = f"n0000000{class_code + 1}"
                # The two classes' CIFAR-10 numbers differ.
                cifar10 = f"cifar10-{split}-{number}" + "00" * class_code
                stem = cifar10 if number < 5 else f"{synset}_{number}"
                colour = (class_code * 200, split_code * 200, number * 10)
                Image.new("RGB", (8, 8), colour).save(folder / f"{stem}.png")
    pack(root / "tree", root / "shards", PackOptions(shard_size=15, block_size=4), workers=1,
         warn=lambda text: None)  # fmt: skip
    return root / "shards"


def rows_of(path: Path, per_row: int) -> list[list[tuple[int, int, int]]]:
    """Return the colour of each cell of a montage, counted from the right edge."""
    pixels = np.asarray(Image.open(path))
    num_rows = (pixels.shape[0] - GAP) // (CELL + GAP)
    return [
        [
            tuple(pixels[GAP + y * (CELL + GAP) + 30, -GAP - x * (CELL + GAP) - 30].tolist())
            for x in reversed(range(per_row))
        ]
        for y in range(num_rows)
    ]


def test_each_class_has_a_row(flat: Path, tmp_path: Path) -> None:
    assert show(flat, tmp_path / "all.png", per_class=8) == 16
    cats, dogs = rows_of(tmp_path / "all.png", 8)
    assert {red for red, _, _ in cats} == {0} and {red for red, _, _ in dogs} == {200}
    assert len(set(cats)) == 8 and len({green for _, green, _ in cats}) == 2


def test_parts(flat: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.png"
    assert show(flat, out, split="train", classes=["dog"], origins=["cifar"], per_class=9) == 5
    (dogs,) = rows_of(out, 5)
    assert {colour[:2] for colour in dogs} == {(200, 200)}
    assert {blue for _, _, blue in dogs} == {0, 10, 20, 30, 40}


def test_the_seed_chooses(flat: Path, tmp_path: Path) -> None:
    pictures = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        show(flat, tmp_path / name, seed=seed, per_class=4, workers=3)
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    show(flat, tmp_path / "more", per_class=6)
    assert [row[:4] for row in rows_of(tmp_path / "more", 6)] == rows_of(tmp_path / "a", 4)


def test_large_images_and_odd_names() -> None:
    wide = np.zeros((50, 300, 3), np.uint8)
    assert fit(wide, 64).size == (64, 11)
    assert fit(wide[:, :20], 64).size == (20, 50)
    picture = draw({"名\n" * 40: [fit(wide, 64)], "": []})
    assert picture.height == GAP + 2 * (CELL + GAP)


def test_many_classes_are_in_several_columns() -> None:
    """300 classes are a picture and not a thin strip; 20 stay in one column."""
    shade = {f"class {n:03}": [Image.new("RGB", (4, 4), (n % 250, 0, 9))] * 2 for n in range(300)}
    few, many = (draw(dict(list(shade.items())[:count])) for count in (20, 300))
    assert few.height == GAP + 20 * (CELL + GAP)
    assert many.height < many.width < 2 * many.height
    pixels = np.asarray(many)
    counts = np.bincount(pixels[:, :, 0][pixels[:, :, 2] == 9], minlength=250)
    assert counts.tolist() == [4 * CELL**2] * 50 + [2 * CELL**2] * 200


def test_invalid_arguments_are_rejected(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="per_class=0: expected an integer, at least 1"):
        show(flat, tmp_path / "a.png", per_class=0)
    with pytest.raises(OptionError, match="no class 'cow'"):
        show(flat, tmp_path / "a.png", classes=["cow"])
    with pytest.raises(OutputError, match="there is no folder"):
        show(flat, tmp_path / "no" / "a.png")
    with pytest.raises(OutputError, match="a folder; give the name of a file"):
        show(flat, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_montage_that_is_too_large_is_rejected(encoded: dict[str, Path], tmp_path: Path) -> None:
    import cinic_shards.view.montage as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_SIDE", 1000)
        with pytest.raises(OptionError, match="10 rows of up to 16 images would be more"):
            show(encoded["png"], tmp_path / "a.png")


def test_strata(encoded: dict[str, Path]) -> None:
    columns: Columns = Dataset(encoded["png"]).columns
    rows = stratified(columns, 100, seed=0)
    strata = set(zip(columns.split, columns.labels, columns.origin, strict=True))
    assert abs(len(rows) - 100) <= len(strata)
    assert (np.diff(rows) > 0).all()
    chosen = columns.take(rows)
    for column in (columns.split, columns.labels, columns.origin):
        of_all, of_chosen = (np.unique(one, return_counts=True)
                             for one in (column, column[rows]))  # fmt: skip
        assert of_all[0].tolist() == of_chosen[0].tolist()
    assert set(zip(chosen.split, chosen.labels, chosen.origin, strict=True)) == strata
    assert len(stratified(columns, 10**9, seed=0)) == len(columns)
    assert stratified(columns, 100, seed=1).tolist() != rows.tolist()


def test_the_command(flat: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "cats.png"
    arguments = ["show", flat, "-o", out, "--class", "cat", "--per-class", "3", "--seed", "2"]
    status, said, _ = run(*arguments)
    assert (status, said) == (0, f"3 images: {out}\n")
    show(flat, tmp_path / "same.png", classes=["cat"], per_class=3, seed=2)
    assert out.read_bytes() == (tmp_path / "same.png").read_bytes()
