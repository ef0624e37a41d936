"""Errors have fields, and can be sent to a different process."""

import pickle
from typing import Any

import pytest

from cinic_shards.errors import (
    CinicShardsError,
    DecodeError,
    FormatError,
    MissingError,
    SourcesError,
    StoreError,
    TreeError,
    reason_of,
)

ERRORS: list[tuple[CinicShardsError, dict[str, Any], str]] = [
    (
        TreeError("root", ["one", "two"]),
        {"root": "root", "problems": ("one", "two")},
        "root: 2 problems; nothing was packed\n  one\n  two",
    ),
    (
        TreeError("root", ["one"]),
        {"root": "root", "problems": ("one",)},
        "root: 1 problem; nothing was packed\n  one",
    ),
    (
        SourcesError("ImageNet", ["one"], "look"),
        {"location": "ImageNet", "problems": ("one",), "hint": "look"},
        "ImageNet: one; nothing was built; look",
    ),
    (
        StoreError("shards/x.tar", "5 bytes"),
        {"location": "shards/x.tar", "reason": "5 bytes"},
        "shards/x.tar: 5 bytes",
    ),
    (
        MissingError("shards/x.tar", "not found"),
        {"location": "shards/x.tar", "reason": "not found"},
        "shards/x.tar: not found",
    ),
    (
        FormatError("shards/manifest.json", "not JSON"),
        {"location": "shards/manifest.json", "reason": "not JSON"},
        "shards/manifest.json: not JSON",
    ),
    (
        DecodeError(3, "cut off", "train/cat/x"),
        {"position": 3, "reason": "cut off", "location": "train/cat/x"},
        "train/cat/x: cut off",
    ),
    (
        DecodeError(3, "cut off"),
        {"position": 3, "reason": "cut off", "location": "image 3"},
        "image 3: cut off",
    ),
]


@pytest.mark.parametrize(("error", "fields", "text"), ERRORS, ids=[e[2] for e in ERRORS])
def test_fields_and_text_survive_a_process(
    error: CinicShardsError, fields: dict[str, Any], text: str
) -> None:
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert type(one) is type(error)
        assert {name: getattr(one, name) for name in fields} == fields
        assert str(one) == text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(2, "No such file", "x"), "No such file"),
        (OSError("short write"), "short write"),
        (OSError(), "OSError"),
    ],
)
def test_every_error_of_the_system_has_a_reason(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason
