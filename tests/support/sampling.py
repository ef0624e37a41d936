"""Choose which cases of a test run often; a longer run has the others."""

from collections.abc import Hashable, Iterable
from typing import Any

import pytest


def sampled(
    cases: Iterable[tuple[Hashable, ...]], mark: pytest.MarkDecorator = pytest.mark.real
) -> list[Any]:
    """Mark most cases: those left have each value of each parameter at least once.

    With ``real``, `make test-real` runs the others; with ``long``, `make acceptance` does.
    """
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
    return [case if case in quick else pytest.param(*case, marks=mark) for case in cases]
