"""Partitions: every scheme, its file, the forms of other libraries, and invalid input."""

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cinic_shards import CINIC10, Dataset, Partition, ShardLoader, Subset, partition
from cinic_shards.errors import CinicShardsError, FormatError, OptionError
from cinic_shards.read.schemes import SchemeOptions, divide

DIGESTS = {
    "iid": "20d05c1783f65e1a",
    "dirichlet": "7fe85c11f2ddab9b",
    "classes": "e750c1610f9e46a9",
    "quantity": "57a2f35597c4bbd6",
    "fractions": "1a7879b95c43332e",
}
"""Digests of the files without fingerprints, as every machine and release must write them."""


def options_of(scheme: str, **given: Any) -> SchemeOptions:
    return SchemeOptions(scheme=scheme, **given)


def some_labels(sizes: list[int]) -> NDArray[np.int64]:
    """Labels in a mixed order, with this number of samples in each class."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return labels[np.random.default_rng(len(labels)).permutation(len(labels))].astype(np.int64)


OPTIONS = st.one_of(
    st.fixed_dictionaries({"scheme": st.just("iid"), "parts": st.integers(1, 300)}),
    st.fixed_dictionaries({
        "scheme": st.just("dirichlet"), "parts": st.integers(1, 300),
        "alpha": st.floats(5e-324, 1.7e308), "min_size": st.integers(0, 30),
    }),
    st.fixed_dictionaries({
        "scheme": st.just("classes"), "parts": st.integers(1, 300),
        "classes_per_part": st.integers(1, 12), "min_size": st.integers(0, 30),
    }),
    st.fixed_dictionaries({
        "scheme": st.just("quantity"), "parts": st.integers(1, 300),
        "alpha": st.floats(1e-3, 1e3), "min_size": st.integers(0, 30),
    }),
    st.fixed_dictionaries({
        "scheme": st.just("quantity"), "parts": st.integers(1, 300),
        "exponent": st.floats(0, 100), "min_size": st.integers(0, 30),
    }),
    st.fixed_dictionaries({
        "scheme": st.just("fractions"), "min_size": st.integers(0, 30),
        "fractions": st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True),
                                     st.floats(1e-9, 0.2), min_size=1, max_size=5),
    }),
)  # fmt: skip


@settings(max_examples=150, deadline=5_000)
@given(
    given_options=OPTIONS,
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=12).filter(any),
    seed=st.integers(0, 2**63 - 1),
)
def test_parts_are_disjoint_and_complete_or_the_reason_is_given(
    given_options: dict[str, Any], sizes: list[int], seed: int
) -> None:
    options, labels = options_of(**given_options, seed=seed), some_labels(sizes)
    num_parts = len(options.names)
    try:
        part_of = divide(labels, options)
    except OptionError as error:
        present = sum(size > 0 for size in sizes)
        each = options.classes_per_part or 2
        assert (
            num_parts * options.min_size > len(labels)
            or (options.scheme == "classes"
                and (each > present or num_parts * each < present or "smallest" in str(error)))
            or options.scheme == "fractions"
        )  # fmt: skip
        return
    assert part_of.shape == labels.shape and part_of.max() < num_parts
    found = np.bincount(part_of[part_of >= 0], minlength=num_parts)
    assert found.min() >= options.min_size
    if options.scheme == "fractions":
        assert options.fractions is not None
        shares = np.array([*options.fractions.values()])
        assert np.all(np.abs(found - len(labels) * shares) <= 1)
    else:
        assert part_of.min() >= 0
    if options.scheme == "iid":
        assert np.ptp(found) <= 1
    if options.scheme == "classes":
        has = np.zeros((num_parts, len(sizes)), np.bool_)
        has[part_of, labels] = True
        assert has.sum(axis=1).max() <= (options.classes_per_part or 2)
    np.testing.assert_array_equal(part_of, divide(labels, options))


def test_dirichlet_shares_have_the_variance_of_the_distribution() -> None:
    labels = np.zeros(200_000, np.int64)
    for alpha in (0.1, 1.0, 10.0):
        shares = np.concatenate([
            np.bincount(divide(labels, options_of("dirichlet", parts=40, alpha=alpha, min_size=0,
                                                  seed=seed)), minlength=40) / len(labels)
            for seed in range(25)
        ])  # fmt: skip
        expected = (1 / 40) * (1 - 1 / 40) / (40 * alpha + 1)  # variance of one share
        assert shares.mean() == pytest.approx(1 / 40)
        assert shares.var() == pytest.approx(expected, rel=0.2)


def test_a_thousand_clients_of_the_full_size_end_in_seconds() -> None:
    labels = some_labels([9_000] * 10)
    start = time.perf_counter()
    for given_options in (
        {"scheme": "dirichlet", "alpha": 1e-9, "min_size": 90},
        {"scheme": "dirichlet", "alpha": 1e9, "min_size": 10},
        {"scheme": "classes", "classes_per_part": 10},
        {"scheme": "quantity", "exponent": 2.0, "min_size": 10},
    ):
        found = np.bincount(divide(labels, options_of(parts=1000, **given_options)))
        assert len(found) == 1000 and found.sum() == 90_000
    assert time.perf_counter() - start < 60


def test_classes_are_owned_by_equally_many_parts() -> None:
    labels = some_labels([100] * 10)
    part_of = divide(labels, options_of("classes", parts=25, classes_per_part=2))
    owners = [len(np.unique(part_of[labels == label])) for label in range(10)]
    assert owners == [5] * 10
    assert np.bincount(part_of).tolist() == [40] * 25
    pairs = {tuple(np.unique(labels[part_of == part])) for part in range(25)}
    assert len(pairs) > 10  # not the same few pairs again and again


@pytest.fixture(scope="module")
def shards(packed: dict[str, Path]) -> Path:
    return packed["raw"]


def test_the_file(shards: Path, packed: dict[str, Path], tmp_path: Path) -> None:
    parts = partition(shards, "dirichlet", parts=7, alpha=0.3, min_size=5, split="train+valid")
    parts.write(tmp_path / "parts.json")
    content = json.loads((tmp_path / "parts.json").read_text())
    assert content["fingerprint"] == Dataset(shards).manifest.fingerprint
    assert content["options"] == {
        "scheme": "dirichlet", "parts": 7, "alpha": 0.3, "min_size": 5, "seed": 0,
    }  # fmt: skip
    assert sorted(content["parts"]) == [*"0123456"]
    found = Partition.read(tmp_path / "parts.json")
    assert found.sizes == parts.sizes and found.split == "train+valid"
    columns = Dataset(shards).columns_of("train+valid")
    everything = np.sort(np.concatenate([found.ids(number) for number in range(7)]))
    np.testing.assert_array_equal(everything, columns.ids)
    counts = found.count(Dataset(packed["png"]))  # the same fingerprint
    assert counts.sum() == len(columns) and counts.sum(axis=1).tolist() == [*parts.sizes.values()]
    found.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "parts.json").read_bytes()


def test_the_same_bytes_on_every_machine(shards: Path, tmp_path: Path) -> None:
    digests = {}
    for scheme, given_options in {
        "iid": {"parts": 7},
        "dirichlet": {"parts": 9, "alpha": 0.3, "min_size": 3},
        "classes": {"parts": 9, "classes_per_part": 3},
        "quantity": {"parts": 9, "exponent": 1.5},
        "fractions": {"fractions": {"target": 0.4, "shadow": 0.4, "reference": 0.2}},
    }.items():
        partition(shards, scheme, seed=3, **given_options).write(tmp_path / scheme)
        text = re.sub(r'"fingerprint": "[^"]*"', "", (tmp_path / scheme).read_text())
        digests[scheme] = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digests == DIGESTS


def test_loaders_visit_their_parts(shards: Path, tmp_path: Path) -> None:
    partition(shards, "fractions", fractions={"target": 0.5, "shadow": 0.25}).write(
        tmp_path / "parts.json"
    )
    seen = {}
    for name in ("target", "shadow"):
        subset = Subset(partition=tmp_path / "parts.json", part=name)
        loader = ShardLoader(shards, subset=subset, batch_size=4, tail="short")
        seen[name] = sorted(i for batch in loader for i in batch.indices.tolist())
        assert seen[name] == Partition.read(tmp_path / "parts.json").ids(name).tolist()
        assert sorted(CINIC10(shards, subset=subset).ids.tolist()) == seen[name]
    assert len(set(seen["target"]) & set(seen["shadow"])) == 0
    assert [*map(len, seen.values())] == [45, 23]


@pytest.mark.parametrize("name", ["map.json", "net_dataidx_map.txt"])
def test_indices_of_other_libraries(shards: Path, tmp_path: Path, name: str) -> None:
    dataset = Dataset(shards)
    parts = partition(shards, "dirichlet", parts=12, alpha=0.2, min_size=0, split="train+valid")
    parts.write_indices(tmp_path / name, dataset)
    again = Partition.read_indices(tmp_path / name, dataset, "train+valid")
    assert [*again] == [*parts]
    for part in parts:
        np.testing.assert_array_equal(again.ids(part), parts.ids(part))
    folder = CINIC10(shards, "train+valid")
    for part, indices in parts.indices(dataset).items():
        assert sorted(folder.ids[indices].tolist()) == parts.ids(part).tolist()


def test_fedml_reads_the_text(shards: Path, tmp_path: Path) -> None:
    """By the rules of FedML's reader: brackets and names in lines of their own."""
    parts = partition(shards, "iid", parts=3)
    parts.write_indices(tmp_path / "map.txt", Dataset(shards))
    found: dict[int, list[int]] = {}
    for line in (tmp_path / "map.txt").read_text().splitlines():
        if line[0] in "{}]":
            continue
        if line.endswith("["):
            number = int(line.partition(":")[0])
        else:
            found[number] = [int(one) for one in line.split(",")]
    expected = parts.indices(Dataset(shards))
    assert {str(n): one for n, one in found.items()} == {n: i.tolist() for n, i in expected.items()}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scheme": "iid"}, "parts: scheme iid needs the number of parts"),
        ({"scheme": "iid", "parts": 0}, "parts=0: expected an integer, 1 to 1,000,000"),
        (
            {"scheme": "iid", "parts": 2, "alpha": 1.0},
            "alpha: scheme iid has no such option",
        ),
        ({"scheme": "dirichlet", "parts": 2, "alpha": 0.0}, "alpha=0.0: expected more than 0"),
        (
            {"scheme": "dirichlet", "parts": 40, "min_size": 10_000},
            "40 parts of at least 10,000",
        ),
        ({"scheme": "classes", "parts": 2, "classes_per_part": 2}, "2 parts of 2 classes hold at"),
        ({"scheme": "classes", "parts": 9, "classes_per_part": 11}, "the samples have 10 classes"),
        ({"scheme": "quantity", "parts": 2, "exponent": -1.0}, "exponent=-1.0: expected 0 to 100"),
        ({"scheme": "quantity", "parts": 2, "exponent": 1.0, "alpha": 1.0}, "give one of them"),
        ({"scheme": "fractions"}, "expected names and numbers"),
        ({"scheme": "fractions", "fractions": {}}, "expected numbers above 0"),
        ({"scheme": "fractions", "fractions": {"a": 0.7, "b": 0.31}}, "a=0.7, b=0.31: expected nu"),
        ({"scheme": "fractions", "fractions": {"a": "x"}}, "expected numbers above 0"),
        ({"scheme": "fractions", "fractions": {"a/b": 0.5}}, "the name 'a/b': expected letters"),
        ({"scheme": "fractions", "fractions": {"a": 1e-6}}, "part 'a' would have 0 of"),
        ({"scheme": "dirichlt", "parts": 2}, "did you mean 'dirichlet'"),
        ({"scheme": "iid", "parts": 2, "seed": -1}, "seed=-1: expected an integer"),
        ({"scheme": "iid", "parts": 2, "split": "tran"}, "no split 'tran'"),
    ],
)
def test_invalid_options(shards: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=re.escape(problem)):
        partition(shards, **options)


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"format": "x"}, "not a file of cinic-shard partition"),
        ({"version": 2}, "has version 2; this release reads 1"),
        ({"parts": {"0": [91], "1": [91]}, "num_samples": 2}, "id 91 in part 0 and 1"),
        ({"parts": {"0": [91, 91]}, "num_samples": 2}, "id 91 in part 0"),
        ({"parts": {"0": [91]}}, "damaged"),
        ({"parts": {"0": ["x"]}}, "damaged"),
        ({"parts": {"0": [True]}}, "damaged"),
        ({"parts": [1]}, "damaged"),
        ({"parts": {"0": [10**30]}, "num_samples": 1}, "damaged"),
        ({"parts": {}, "num_samples": 0}, "has no parts"),
        ({"parts": {"a b": []}, "num_samples": 0}, "part 'a b': expected letters"),
        ({"split": None}, "damaged"),
        ({"fingerprint": "blake2b:0"}, "belongs to another dataset"),
        ({"parts": {"0": [10**7]}, "num_samples": 1}, "ids: 1 of 1 are not in train: 10000000"),
    ],
)
def test_a_file_with_a_mistake(
    shards: Path, tmp_path: Path, fields: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "parts.json"
    partition(shards, "iid", parts=3).write(path)
    change(path, **fields)
    with pytest.raises(CinicShardsError, match=re.escape(problem)):
        ShardLoader(shards, subset=Subset(partition=path, part=0))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[[0, 1], [1]]", "samples are listed twice"),
        (b"[[0], [-1]]", "part '1': index -1; train has"),
        (b"[[0], [100000]]", "part '1': index 100000; train has"),
        (b"[[1" + b"0" * 30 + b"]]", "expected lists of indices"),
        (b"[[0.5]]", "expected lists of indices"),
        (b"[0, 1]", "expected lists of indices"),
        (b"[]", "has no parts"),
        (b"{0: [1}", "expected lists of indices"),
        (b"\xff", "expected lists of indices"),
    ],
)
def test_indices_with_a_mistake(shards: Path, tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "map.json").write_bytes(content)
    with pytest.raises(FormatError, match=re.escape(problem)):
        Partition.read_indices(tmp_path / "map.json", Dataset(shards))


def test_parts_that_are_not_there(shards: Path, tmp_path: Path) -> None:
    parts = partition(shards, "fractions", fractions={"target": 0.5, "shadow": 0.5})
    with pytest.raises(OptionError, match="no part 'shadows' of 2: target, shadow; did you mean"):
        parts.ids("shadows")
    with pytest.raises(OptionError, match="partition and part: give both or none"):
        Subset(partition=parts)
    with pytest.raises(OptionError, match="FedML's form has numbered parts only"):
        parts.write_indices(tmp_path / "map.txt", Dataset(shards))
    with pytest.raises(OptionError, match=r"expected a name that ends with \.json or \.txt"):
        parts.write_indices(tmp_path / "map.csv", Dataset(shards))
    assert not list(tmp_path.iterdir())
    with pytest.raises(CinicShardsError, match=r"none\.json: "):
        ShardLoader(shards, subset=Subset(partition=tmp_path / "none.json", part=0))
