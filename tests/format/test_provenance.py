"""Provenance from file names; a name that CINIC-10 does not use gives ``unknown``."""

import pytest

from cinic_shards.format.provenance import CIFAR10_SIZES, ORIGINS, UNKNOWN, Provenance, parse_stem

KNOWN = {
    "cifar10-train-103": ("cifar10-train", "", 103),
    "cifar-10-train-103": ("cifar10-train", "", 103),
    "cifar10-train-0": ("cifar10-train", "", 0),
    "cifar10-train-49999": ("cifar10-train", "", 49_999),
    "cifar10-train-00103": ("cifar10-train", "", 103),
    "cifar10-test-7": ("cifar10-test", "", 7),
    "cifar-10-test-7": ("cifar10-test", "", 7),
    "cifar10-test-9999": ("cifar10-test", "", 9_999),
    "n02691156_4821": ("imagenet", "n02691156", 4821),
    "n02121808_77": ("imagenet", "n02121808", 77),
    "n01440764_0": ("imagenet", "n01440764", 0),
    "n00000001_1": ("imagenet", "n00000001", 1),
    "n02691156_00012": ("imagenet", "n02691156", 12),
    "n02691156_999999999999999999": ("imagenet", "n02691156", 10**18 - 1),
}

NOT_CINIC10 = [
    "",
    "cat",
    "103",
    # Beyond CIFAR-10's sets.
    "cifar10-train-50000",
    "cifar10-test-10000",
    "cifar-10-test-49999",
    "cifar10-train-999999999999999999",
    # More digits than 64 bits hold.
    "n02691156_1000000000000000000",
    "cifar10-train-0000000000000000001",
    "n02691156_" + "9" * 80,
    # A different set, a different dataset, no number.
    "cifar10-valid-1",
    "cifar100-train-1",
    "cifar10-train",
    "cifar10-train-",
    "cifar10-train--1",
    "n02691156",
    "n02691156_",
    # Synsets of other lengths, other parts of speech.
    "n0269115_1",
    "n026911561_1",
    "v02691156_1",
    "02691156_1",
    "n00000000_1",  # in an index, synset 0 means none
    # Other separators, other case.
    "cifar_10_train_103",
    "cifar--10-train-103",
    "cifar 10-train-103",
    "cifar10train103",
    "n02691156-4821",
    "N02691156_4821",
    "CIFAR10-train-103",
    "cifar10-Train-103",
    # Text before or after it.
    " cifar10-train-103",
    "cifar10-train-103 ",
    "cifar10-train-103\n",
    "n02691156_4821\n",
    "xcifar10-train-103",
    "cifar10-train-103-flipped",
    "cifar10-train-103 (1)",
    "n02691156_4821_2",
    "train/cat/n02691156_4821",
    # Numbers that int() would accept.
    "cifar10-train-+1",
    "cifar10-train-1_0",
    "cifar10-train-1e3",
    "cifar10-train-0x10",
    "n02691156_1_0",
    # Digits that are not ASCII: Arabic-Indic, full-width, superscript.
    "cifar10-train-١٠٣",
    "n02691156_\uff14\uff18\uff12\uff11",
    "n\uff10\uff12\uff16\uff19\uff11\uff11\uff15\uff16_1",
    "cifar10-train-10²",
]


@pytest.mark.parametrize("stem", KNOWN)
def test_a_cinic10_name(stem: str) -> None:
    assert parse_stem(stem) == Provenance(*KNOWN[stem])


@pytest.mark.parametrize("stem", NOT_CINIC10, ids=ascii)
def test_any_other_name_is_unknown(stem: str) -> None:
    assert parse_stem(stem) == UNKNOWN == Provenance("unknown", "", -1)


@pytest.mark.parametrize("set_name, size", [("train", 50_000), ("test", 10_000)])
def test_numbers_within_cifar10s_sets(set_name: str, size: int) -> None:
    assert CIFAR10_SIZES[set_name] == size
    for spelling in ("cifar10", "cifar-10"):
        found = [parse_stem(f"{spelling}-{set_name}-{i}") for i in (0, 1, size - 1, size)]
        assert [one.number for one in found] == [0, 1, size - 1, -1]
        assert [one.origin for one in found] == [f"cifar10-{set_name}"] * 3 + ["unknown"]


def test_origin_codes_match_the_format() -> None:
    """docs/format.md fixes them: never reorder, only append."""
    assert ORIGINS == ("unknown", "cifar10-train", "cifar10-test", "imagenet")
    assert {origin for origin, _, _ in KNOWN.values()} | {"unknown"} == set(ORIGINS)


def test_provenance_does_not_change() -> None:
    with pytest.raises(AttributeError):
        UNKNOWN.number = 3  # type: ignore[misc]
