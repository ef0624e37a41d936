"""Augmentation: one definition, the same bits on the CPU and as torch operations."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cinic_shards.errors import OptionError
from cinic_shards.loader.augment import (
    CINIC10_STATISTICS,
    PLAIN,
    Augment,
    Statistics,
    Transform,
    value_line,
    value_table,
)
from cinic_shards.loader.bench import import_torchvision

MEAN, STD = (0.47, 0.46, 0.41), (0.24, 0.25, 0.26)
SHAPE = (6, 5, 3)
CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
FORMATS = [torch.contiguous_format, torch.channels_last]
IDS = np.arange(1000, 1040)

AUGMENTS = {
    "nothing": PLAIN,
    "crop": Augment(crop_padding=2, flip=False, dtype="uint8"),
    "crop, reflect": Augment(crop_padding=4, flip=False, padding_mode="reflect", dtype="uint8"),
    "crop, edge": Augment(crop_padding=7, flip=False, padding_mode="edge", dtype="uint8"),
    "flip": Augment(crop_padding=0, dtype="uint8"),
    "cutout": Augment(crop_padding=0, flip=False, cutout=3, dtype="uint8"),
    "all, uint8": Augment(cutout=2, dtype="uint8"),
    "normalise": Augment(crop_padding=0, flip=False),
    "all": Augment(cutout=4),
    "all, reflect": Augment(cutout=2, padding_mode="reflect"),
    "all, edge": Augment(padding_mode="edge", dtype="bfloat16"),
    "no crop, reflect": Augment(crop_padding=0, padding_mode="reflect"),
    "all, from 0 to 1": Augment(normalize=False),
    "all, published": Augment(normalize="cinic10"),
    "all, own": Augment(normalize=((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))),
    "all, float16": Augment(cutout=4, dtype="float16"),
    "all, bfloat16": Augment(cutout=4, dtype=torch.bfloat16),
}


def transform_of(
    augment: Augment,
    seed: int = 7,
    shape: tuple[int, int, int] = SHAPE,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Transform:
    return Transform(
        augment, (MEAN, STD), shape, seed=seed, device=CPU, memory_format=memory_format
    )


def addresses_of(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    return images.ctypes.data + np.arange(len(images)) * images[0].size


def moved_as_defined(
    augment: Augment, draws: NDArray[np.int64], images: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Crop, flip and cut out step by step, in plain numpy; the mean colour is MEAN's."""
    statistics = {"cinic10": CINIC10_STATISTICS}.get(str(augment.normalize), (MEAN, STD))
    if isinstance(augment.normalize, tuple):
        statistics = augment.normalize
    fill = np.rint(255 * np.array(statistics[0])).astype(np.uint8)
    height, width, _ = images[0].shape
    out = []
    for image, (top, left, flip, cut_y, cut_x) in zip(images, draws.tolist(), strict=True):
        pad = augment.crop_padding
        mode: Any = {"zero": "constant"}.get(augment.padding_mode, augment.padding_mode)
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode)
        moved = padded[top : top + height, left : left + width].copy()
        if flip:
            moved = moved[:, ::-1].copy()
        if side := augment.cutout:
            y, x = cut_y - side // 2, cut_x - side // 2
            moved[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] = fill
        out.append(moved)
    return np.stack(out)


WIDE = ["nothing", "all, uint8", "normalise", "all", "all, bfloat16", "all, edge"]
"""Kernels handle 32 pixels of a row at once."""


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, SHAPE) for name in AUGMENTS),
        *((name, (9, width, 3)) for name in WIDE for width in (1, 3, 31, 32, 33, 70)),
        *(("all, reflect", (9, width, 3)) for width in (5, 31, 32, 33, 70)),
    ],
)
def test_cpu_and_device_match_the_definition_to_the_bit(
    name: str, shape: tuple[int, int, int], memory_format: torch.memory_format
) -> None:
    augment = AUGMENTS[name]
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), np.uint8)
    transform = transform_of(augment, shape=shape, memory_format=memory_format)
    draws = transform.draw(IDS, epoch=3)
    buffer = torch.empty(transform.buffer_shape(40), dtype=transform.dtype)
    transform.on_cpu(addresses_of(images), None if transform.is_plain else draws, buffer)
    rows = torch.arange(40)
    on_device = transform.on_device(torch.from_numpy(images), rows, torch.from_numpy(draws))
    assert on_device.is_contiguous(memory_format=memory_format)
    assert transform.as_images(buffer).is_contiguous(memory_format=memory_format)
    out, on_device = transform.as_images(buffer).permute(0, 2, 3, 1), on_device.permute(0, 2, 3, 1)
    moved = moved_as_defined(augment, draws, images)
    expected: torch.Tensor
    if transform.dtype == torch.uint8:
        expected = torch.from_numpy(moved)
    else:
        statistics = {"all, own": augment.normalize, "all, published": CINIC10_STATISTICS}.get(
            name, None if augment.normalize is False else (MEAN, STD)
        )
        table = value_table(statistics, transform.dtype)  # type: ignore[arg-type]
        assert table is not None
        expected = table[torch.arange(3), torch.from_numpy(moved).to(torch.int64)]
    assert out.dtype == on_device.dtype == expected.dtype
    assert torch.equal(out, expected)
    assert torch.equal(on_device, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_table_is_the_definition_rounded_once(dtype: torch.dtype) -> None:
    table = value_table((MEAN, STD), dtype)
    assert table is not None and table.dtype == dtype
    for channel in range(3):
        for value in (0, 1, 127, 255):
            exact = (value / 255 - MEAN[channel]) / STD[channel]
            assert table[channel, value] == torch.tensor(exact, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("statistics", [(MEAN, STD), CINIC10_STATISTICS, None])
def test_the_line_matches_the_table_to_the_bit(statistics: Statistics | None) -> None:
    table = value_table(statistics, torch.float32)
    assert table is not None
    line = value_line(statistics, table)
    assert line is not None
    values = np.arange(256) * line[0][:, None] + line[1][:, None]
    np.testing.assert_array_equal(values.astype(np.float32), table.numpy())


def test_there_is_no_line_if_a_bit_differs() -> None:
    table = value_table((MEAN, STD), torch.float32)
    assert table is not None
    assert value_line((MEAN, STD), table.to(torch.float16)) is None
    table[1, 77] = torch.nextafter(table[1, 77], torch.tensor(9.0))
    assert value_line((MEAN, STD), table) is None


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", ["normalise", "all", "all, own"])
def test_looking_values_up_or_computing_them_is_the_same(
    name: str, memory_format: torch.memory_format
) -> None:
    transform = transform_of(AUGMENTS[name], memory_format=memory_format)
    draws = transform.draw(IDS, epoch=1)
    batches = torch.empty((2, *transform.buffer_shape(len(IMAGES))))
    assert transform._line is not None
    for line, out in zip((transform._line, None), batches, strict=True):
        transform._line = line
        transform.on_cpu(addresses_of(IMAGES), draws, out)
    assert torch.equal(*batches)


def test_values_are_within_rounding_of_torchvisions() -> None:
    table = value_table((MEAN, STD), torch.float32)
    assert table is not None
    values = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
    for channel in range(3):
        expected = values.sub(MEAN[channel]).div(STD[channel])
        torch.testing.assert_close(table[channel], expected, rtol=0, atol=3e-7)


GOLDEN_DRAWS = [[3, 1, 1, 3, 3], [4, 1, 1, 2, 0], [1, 1, 0, 3, 0], [4, 2, 0, 2, 0]]


def test_golden_draws() -> None:
    """These numbers pin the random draws: a resumed epoch must continue with the same ones."""
    draws = transform_of(Augment(crop_padding=2, cutout=1)).draw(np.arange(4), epoch=0)
    assert draws.tolist() == GOLDEN_DRAWS


def test_draws_depend_on_seed_epoch_and_id_only() -> None:
    transform = transform_of(Augment(cutout=1))
    draws = transform.draw(IDS, epoch=1)
    order = np.random.default_rng(1).permutation(len(IDS))
    np.testing.assert_array_equal(transform.draw(IDS[order], epoch=1), draws[order])
    assert not np.array_equal(transform.draw(IDS, epoch=2), draws)
    assert not np.array_equal(transform_of(Augment(cutout=1), seed=8).draw(IDS, epoch=1), draws)


def test_a_seed_of_its_own_replaces_the_loaders() -> None:
    own = transform_of(Augment(seed=8))
    assert "seed 8" in own.description and "seed" not in transform_of(Augment()).description
    np.testing.assert_array_equal(
        own.draw(IDS, epoch=1), transform_of(Augment(), seed=8).draw(IDS, epoch=1)
    )


@pytest.mark.parametrize("mode", ["zero", "edge", "reflect"])
def test_a_crop_is_torchvisions(mode: Any) -> None:
    import_torchvision()
    from torchvision.transforms.functional import crop, hflip, pad

    transform = transform_of(Augment(crop_padding=4, padding_mode=mode, dtype="uint8"))
    draws = transform.draw(IDS, epoch=0)
    buffer = torch.empty(transform.buffer_shape(40), dtype=torch.uint8)
    transform.on_cpu(addresses_of(IMAGES), draws, buffer)
    name = {"zero": "constant"}.get(mode, mode)
    for image, found, (top, left, flip, _, _) in zip(IMAGES, buffer, draws.tolist(), strict=True):
        padded = pad(torch.from_numpy(image).permute(2, 0, 1), [4] * 4, padding_mode=name)
        expected = crop(padded, top, left, *SHAPE[:2])
        assert torch.equal(found, hflip(expected) if flip else expected)


def test_reflecting_needs_an_image_larger_than_the_padding() -> None:
    with pytest.raises(OptionError, match="reflect needs less than the 5 pixels of an image"):
        transform_of(Augment(crop_padding=5, padding_mode="reflect"))


def test_all_positions_are_about_equally_frequent() -> None:
    """90,000 draws: five standard deviations around the expected counts."""
    draws = transform_of(Augment(crop_padding=4, cutout=1)).draw(np.arange(90_000), epoch=0)
    for column, choices in enumerate((9, 9, 2, SHAPE[0], SHAPE[1])):
        counts = np.bincount(draws[:, column], minlength=choices)
        assert len(counts) == choices
        expected = len(draws) / choices
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    pairs = np.bincount(draws[:, 0] * 9 + draws[:, 1], minlength=81)
    assert np.abs(pairs - 90_000 / 81).max() < 5 * np.sqrt(90_000 / 81)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": -1}, "crop_padding=-1"),
        ({"crop_padding": 1.5}, "crop_padding=1.5"),
        ({"cutout": -2}, "cutout=-2"),
        ({"padding_mode": "reflct"}, "did you mean 'reflect'"),
        ({"seed": -1}, "seed=-1"),
        ({"normalize": "imagenet"}, "one of cinic10"),
        ({"dtype": "float64"}, "dtype='float64': expected one of uint8, float32"),
        ({"dtype": "uint8", "normalize": True}, "dtype uint8 cannot be normalised"),
    ],
)
def test_invalid_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Augment(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.5,)), (MEAN, (0.2, 0.0, 0.2)), (MEAN, (0.2, -1, 0.2))]
)
def test_invalid_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="three channels each"):
        value_table((mean, std), torch.float32)
