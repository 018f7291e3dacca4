"""From categories to classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from klieg.errors import InputError, TargetError
from klieg.evaluation.datasets import class_of, read_mapping, resolve_mapping

NAMES = ("tench", "crane", "wallaby", "crane", "7")


def test_numbers_names_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"fish": 0, "roo": "wallaby", "all": [2, "tench", 0, 4]}))
    mapping = read_mapping(path)
    assert mapping == {"fish": (0,), "roo": ("wallaby",), "all": (2, "tench", 0, 4)}
    resolved = resolve_mapping(mapping, classes=5, class_names=NAMES)
    assert resolved == {"fish": (0,), "roo": (2,), "all": (2, 0, 4)}


@pytest.mark.parametrize("value", [[], None, 1.5, True, [1, None], {"a": 1}])
def test_malformed_entries(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"fish": 0, "roo": value}))
    with pytest.raises(InputError, match="category 'roo'"):
        read_mapping(path)


def test_what_is_no_mapping(tmp_path: Path) -> None:
    path = tmp_path / "mapping.json"
    with pytest.raises(InputError, match="as JSON"):
        read_mapping(path)
    path.write_text("{")
    with pytest.raises(InputError, match="as JSON"):
        read_mapping(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="holds a list"):
        read_mapping(path)


@pytest.mark.parametrize("target", [5, -1, "no such class", "crane"])
def test_unknown_classes_name_the_category(target: int | str) -> None:
    with pytest.raises(TargetError, match=r"category 'roo': .*class|category 'roo': target"):
        resolve_mapping({"roo": (target,)}, classes=5, class_names=NAMES)


def test_a_category_is_looked_up_by_name_and_number() -> None:
    assert class_of("wallaby", classes=5, class_names=NAMES) == 2
    assert class_of("3", classes=5, class_names=NAMES) == 3
    assert class_of("3", classes=5, class_names=None) == 3
    assert class_of("7", classes=10, class_names=NAMES) == 4  # a name comes before a number
    assert class_of("5", classes=5, class_names=NAMES) is None
    assert class_of("-1", classes=5, class_names=NAMES) is None
    assert class_of("", classes=5, class_names=None) is None
    assert class_of("dog", classes=5, class_names=NAMES) is None
    with pytest.raises(TargetError, match="category 'crane': 2 classes"):
        class_of("crane", classes=5, class_names=NAMES)
