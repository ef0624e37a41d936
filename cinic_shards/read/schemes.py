"""Divide samples into parts. All arithmetic is exact, so every machine makes the same parts."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import kernels
from cinic_shards.errors import OptionError
from cinic_shards.format import shown
from cinic_shards.options import checked, integer
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.partition import PART_NAME, Partition
from cinic_shards.read.subset import Subset, choose_samples, given_options
from cinic_shards.store import StoreLike

Scheme = Literal["iid", "dirichlet", "classes", "quantity", "fractions"]

_OPTIONS: dict[Scheme, tuple[str, ...]] = {
    "iid": ("parts", "min_size"),
    "dirichlet": ("parts", "alpha", "min_size"),
    "classes": ("parts", "classes_per_part", "min_size"),
    "quantity": ("parts", "alpha", "exponent", "min_size"),
    "fractions": ("fractions", "min_size"),
}
"""Scheme -> the options that it has, beside the seed."""
_NUM_DRAWS = 1 << 20
"""Draws from an urn: a share of 0.01 is exact to 1 % of itself."""
_DEFAULT_ALPHA = 0.5
_MAX_PARTS = 1_000_000


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeOptions:
    """A scheme and its options; see ``partition``.

    Raises:
        OptionError: a value is invalid, or the scheme has no such option.
    """

    scheme: Scheme
    parts: int | None = None
    alpha: float | None = None
    exponent: float | None = None
    classes_per_part: int | None = None
    fractions: Mapping[str, float] | None = None
    min_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        integer("seed", self.seed)
        integer("min_size", self.min_size)
        for name in ("parts", "alpha", "exponent", "classes_per_part", "fractions"):
            if getattr(self, name) is not None and name not in _OPTIONS[self.scheme]:
                names = ", ".join(_OPTIONS[self.scheme])
                raise OptionError(
                    f"{name}: scheme {self.scheme} has no such option; it has {names}"
                )
        if self.fractions is not None:
            _check_fractions(self.fractions)
        elif self.scheme == "fractions":
            raise OptionError("fractions: expected names and numbers, as target=0.4,shadow=0.4")
        elif self.parts is None:
            raise OptionError(f"parts: scheme {self.scheme} needs the number of parts")
        elif not 1 <= self.parts <= _MAX_PARTS:
            raise OptionError(f"parts={self.parts}: expected an integer, 1 to {_MAX_PARTS:,}")
        if self.classes_per_part is not None:
            integer("classes_per_part", self.classes_per_part, 1)
        if self.alpha is not None and self.alpha <= 0:
            raise OptionError(f"alpha={self.alpha!r}: expected more than 0")
        if self.exponent is not None and not 0 <= self.exponent <= 100:
            raise OptionError(f"exponent={self.exponent!r}: expected 0 to 100")
        if self.alpha is not None and self.exponent is not None:
            raise OptionError("alpha and exponent: give one of them")

    @property
    def names(self) -> list[str]:
        """Names of the parts."""
        if self.fractions is not None:
            return list(self.fractions)
        return [str(number) for number in range(self.parts or 0)]

    def as_json(self) -> dict[str, object]:
        """Return the options that the scheme has, as JSON values."""
        values = {name: getattr(self, name) for name in _OPTIONS[self.scheme]}
        if values.get("fractions") is not None:
            values["fractions"] = dict(values["fractions"])
        given = {name: value for name, value in values.items() if value is not None}
        return {"scheme": self.scheme, **given, "seed": self.seed}


def divide(labels: NDArray[np.int64], options: SchemeOptions) -> NDArray[np.int64]:
    """Divide samples among the parts of a scheme.

    Args:
        labels: the classes of N samples, shape (N,).
        options: the scheme and its options.

    Returns:
        The number of each sample's part, int64, shape (N,); -1 for a sample in no part.

    Raises:
        OptionError: there are too few samples or classes for the scheme.
    """
    num_parts = len(options.names)
    if num_parts * options.min_size > len(labels):
        raise OptionError(
            f"{num_parts:,} parts of at least {options.min_size:,} samples need "
            f"{num_parts * options.min_size:,}; there are {len(labels):,}: choose fewer parts or a "
            "smaller min_size"
        )
    part_of = np.full(len(labels), -1, np.int64)
    if options.scheme in ("dirichlet", "classes"):
        by_class = {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}
        sizes = {label: len(rows) for label, rows in by_class.items()}
        counts = (_by_dirichlet if options.scheme == "dirichlet" else _by_class)(sizes, options)
        for (label, rows), row_counts in zip(by_class.items(), counts, strict=True):
            _deal(part_of, rows, row_counts, f"class {label}", options.seed)
    else:
        _deal(part_of, np.arange(len(labels)), _sizes(len(labels), options), "all", options.seed)
    return part_of


def _sizes(total: int, options: SchemeOptions) -> NDArray[np.int64]:
    """Return the sizes of the parts for a scheme that does not look at classes."""
    least = options.min_size
    if options.fractions is not None:
        exact = [_exact(value) for value in options.fractions.values()]
        scale = math.lcm(*(value.denominator for value in exact))
        shares = [int(value * scale) for value in exact]
        sizes = _apportion(total, [*shares, scale - sum(shares)])[:-1]
        if sizes.min() < least:
            smallest = options.names[int(sizes.argmin())]
            raise OptionError(
                f"part {smallest!r} would have {sizes.min():,} of {total:,} samples, expected at "
                f"least {least:,}: choose a larger fraction or a smaller min_size"
            )
        return sizes
    num_parts = len(options.names)
    if options.scheme == "iid":
        return _apportion(total, [1] * num_parts)
    if options.exponent is not None:
        exponent = -Decimal(repr(options.exponent))  # as exact on every machine, unlike floats
        shares = [int(Decimal(i) ** exponent * 10**18) for i in range(1, num_parts + 1)]
    else:
        shares = _random_shares(num_parts, options, "sizes").tolist()
    return least + _apportion(total - num_parts * least, shares)


def _by_dirichlet(sizes: Mapping[int, int], options: SchemeOptions) -> NDArray[np.int64]:
    """Return the number of samples of each class in each part, shape (classes, parts)."""
    num_parts = len(options.names)
    counts = np.stack(
        [
            _apportion(size, _random_shares(num_parts, options, f"class {label}").tolist())
            for label, size in sizes.items()
        ]
    )
    # Published code draws again until all parts are large enough, which may never end.
    totals = counts.sum(axis=0)
    for part in np.flatnonzero(totals < options.min_size).tolist():
        while totals[part] < options.min_size:
            largest = int(totals.argmax())
            label = int(counts[:, largest].argmax())
            counts[label, largest] -= 1
            counts[label, part] += 1
            totals[largest] -= 1
            totals[part] += 1
    return counts


def _by_class(sizes: Mapping[int, int], options: SchemeOptions) -> NDArray[np.int64]:
    """As ``_by_dirichlet``: each part has k classes, each class as many parts as another or one."""
    num_parts, each = len(options.names), options.classes_per_part or 2
    if each > len(sizes):
        raise OptionError(f"classes_per_part={each}: the samples have {len(sizes)} classes")
    if num_parts * each < len(sizes):
        raise OptionError(
            f"{num_parts:,} parts of {each} classes hold at most {num_parts * each} of "
            f"{len(sizes)} classes: choose more parts, a larger classes_per_part, or fewer classes "
            "in the subset"
        )
    has_class = np.zeros((len(sizes), num_parts), np.bool_)
    num_owners = np.zeros(len(sizes), np.int64)
    for part in range(num_parts):
        order = kernels.choose(len(sizes), len(sizes), f"classes of part {part}", options.seed)
        chosen = order[np.argsort(num_owners[order], kind="stable")[:each]]
        has_class[chosen, part] = True
        num_owners[chosen] += 1
    counts = np.stack(
        [
            _apportion(size, has.tolist())
            for size, has in zip(sizes.values(), has_class, strict=True)
        ]
    )
    smallest = int(counts.sum(axis=0).min())
    if smallest < options.min_size:
        raise OptionError(
            f"the smallest of {num_parts:,} parts of {each} classes would have {smallest:,} "
            f"samples, expected at least {options.min_size:,}: choose fewer parts, a larger "
            "classes_per_part or a smaller min_size"
        )
    return counts


def _random_shares(num_parts: int, options: SchemeOptions, purpose: str) -> NDArray[np.int64]:
    """Draw shares of the parts from a Dirichlet distribution: integers, shape (parts,)."""
    text = f"cinic-shards partition {purpose} seed {options.seed}"
    key = hashlib.blake2b(text.encode(), digest_size=8).digest()
    counts = np.zeros(num_parts, np.int64)
    weight = min(num_parts * (options.alpha or _DEFAULT_ALPHA), 1e300)
    colors = np.empty(_NUM_DRAWS, np.int32)
    kernels.draw_from_urn(weight, np.frombuffer(key, "<u8")[0], colors, counts)
    return counts


def _apportion(total: int, shares: Sequence[int]) -> NDArray[np.int64]:
    """Divide a number in proportion to shares, by the method of largest remainders; exact."""
    exact = np.array(shares, object)  # Python's integers, of any size
    whole = exact.sum()
    counts: NDArray[np.int64] = (total * exact // whole).astype(np.int64)
    by_remainder = np.argsort(-(total * exact % whole), kind="stable")
    counts[by_remainder[: total - int(counts.sum())]] += 1
    return counts


def _deal(
    part_of: NDArray[np.int64],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    purpose: str,
    seed: int,
) -> None:
    """Give ``counts`` of these rows, shuffled, to the parts."""
    shuffled = rows[kernels.choose(int(counts.sum()), len(rows), f"partition {purpose}", seed)]
    part_of[shuffled] = np.repeat(np.arange(len(counts)), counts)


def _check_fractions(fractions: Mapping[str, float]) -> None:
    wrong = [n for n in fractions if not isinstance(n, str) or not PART_NAME.fullmatch(n)]
    if wrong:
        raise OptionError(f"fractions: the name {wrong[0]!r}: expected letters, digits, _ - and .")
    values = list(fractions.values())
    is_number = all(isinstance(one, int | float) and math.isfinite(one) for one in values)
    if not values or not is_number or min(values) <= 0 or sum(map(_exact, values)) > 1:
        given = ", ".join(f"{name}={value}" for name, value in fractions.items())
        raise OptionError(f"fractions: {given}: expected numbers above 0, at most 1 together")


def _exact(value: float) -> Fraction:
    """Return the number that a user has written: 0.4 is 2/5, not the nearest float."""
    return Fraction(repr(value))


@checked
def partition(
    path: StoreLike,
    scheme: Scheme,
    *,
    split: str = "train",
    subset: Subset | None = None,
    parts: int | None = None,
    alpha: float | None = None,
    exponent: float | None = None,
    classes_per_part: int | None = None,
    fractions: Mapping[str, float] | None = None,
    min_size: int = 1,
    seed: int = 0,
) -> Partition:
    """Divide samples of a dataset into disjoint parts, such as the clients of federated learning.

    The same dataset and options give the same parts on every machine. Each sample is in one part,
    except that those of ``fractions`` may leave some out.

    Args:
        path: the dataset's folder, URL or open store.
        scheme: how to divide:

            - ``iid``: at random, parts of equal size, or one sample more.
            - ``dirichlet``: each class by shares from a Dirichlet distribution (Hsu et al. 2019).
              Then parts below ``min_size`` get samples of the largest ones.
            - ``classes``: each part has samples of a few classes only; a class is divided equally
              among the parts that have it (McMahan et al. 2017, Li et al. 2022).
            - ``quantity``: at random, sizes from a Dirichlet distribution, or from a power law:
              part i, from 1, gets i**-exponent. Each part first gets ``min_size`` samples.
            - ``fractions``: at random, named parts: ``{"target": 0.4, "shadow": 0.4}``.
        split: the split to divide, or several as in ``train+valid``.
        subset: the samples to divide; by default all.
        parts: number of parts, which are named 0, 1, ...
        alpha: of the Dirichlet distribution; by default 0.5. With a small one, parts differ more.
        exponent: of the power law, 0 to 100.
        classes_per_part: for ``classes``; by default 2.
        fractions: name of each part -> part of the samples.
        min_size: least number of samples in a part.
        seed: seed of the random choices.

    Raises:
        OptionError: an option is invalid, or there are too few samples or classes.
        StoreError, FormatError: an index cannot be read.

    Example:
        >>> parts = partition("shards", "dirichlet", parts=5, alpha=0.3, min_size=10)
        >>> len(parts), parts.num_samples
        (5, 90)
        >>> own = Subset(partition=parts, part=0)
        >>> ShardLoader("shards", "train", batch_size=4, subset=own).num_samples
        25
    """
    options = SchemeOptions(
        scheme=scheme, parts=parts, alpha=alpha, exponent=exponent,
        classes_per_part=classes_per_part, fractions=fractions, min_size=min_size, seed=seed,
    )  # fmt: skip
    dataset = Dataset(path)
    columns = dataset.columns_of(split)
    rows = np.flatnonzero(choose_samples(dataset, columns, split, subset or Subset()))
    part_of = divide(columns.labels[rows], options)
    ids = columns.ids[rows]
    described = options.as_json()
    if num_left_out := int((part_of < 0).sum()):
        described["num_left_out"] = num_left_out
    if given := given_options(subset or Subset()):
        described["subset"] = {name: shown(value) for name, value in given.items()}
    return Partition(
        dataset.manifest.fingerprint,
        "+".join(one.name for one in dataset.splits(split)),
        described,
        {name: ids[part_of == number] for number, name in enumerate(options.names)},
    )
