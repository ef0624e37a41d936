"""Choose which cases of a test `make test` runs; `make test-real` runs the others."""

from collections.abc import Hashable, Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[tuple[Hashable, ...]]) -> list[Any]:
    """Mark most cases as ``real``: those left have each value of each parameter at least once."""
    cases = list(cases)
    quick: set[tuple[Hashable, ...]] = set()
    seen: set[tuple[int, Hashable]] = set()
    # First the cases in which all values are new: fewer are needed than if one were enough.
    for enough in (all, any):
        for case in cases:
            values = [*enumerate(case)]
            if enough(value not in seen for value in values):
                quick.add(case)
                seen.update(values)
    return [
        case if case in quick else pytest.param(*case, marks=pytest.mark.real) for case in cases
    ]
