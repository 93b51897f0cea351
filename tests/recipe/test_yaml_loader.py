"""The YAML loader builds plain values, and refuses what only an attack or a slip holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from mi_kernels.recipe.yaml_loader import Loader


def read(text: str) -> Any:
    return yaml.load(text, Loader)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:36", "12:36"),
        ("1:30:00", "1:30:00"),
        ("-4:", {-4: None}),
        ("1/3:", {"1/3": None}),
        ("'-4:'", "-4:"),
        ("12", 12),
        ("-12", -12),
        ("+3", 3),
        ("0", 0),
        ("0x1f", 31),
        ("1_000", 1000),
        ("0.8", 0.8),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.5", -0.5),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("2.5e+2", 250.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("true", True),
        ("no", False),
        ("~", None),
        ("", None),
        ("org/name@v1.0", "org/name@v1.0"),
        ("[0, 0.5, 1e-1]", [0, 0.5, 0.1]),
        ("{a: [b, {c: 1}]}", {"a": ["b", {"c": 1}]}),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_nan() -> None:
    assert math.isnan(read(".nan"))


def test_numbers_in_base_60_are_text_in_lists_and_mappings_too() -> None:
    assert read("layers: [12:36, 1:2.5]") == {"layers": ["12:36", "1:2.5"]}
    assert yaml.safe_load("12:36") == 756, "the trap itself"


def test_aliases_and_merge_keys() -> None:
    assert read("a: &x {weight: 1}\nb: *x\nc: {<<: *x, density: 2}\nd: {<<: *x, weight: 3}") == {
        "a": {"weight": 1},
        "b": {"weight": 1},
        "c": {"weight": 1, "density": 2},
        "d": {"weight": 3},
    }


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {witness}']",
        "!!python/object/new:subprocess.Popen [[touch, '{witness}']]",
        "a: !!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
        "- !!python/object/apply:builtins.open ['{witness}', w]",
        "!custom 1",
    ],
)
def test_no_objects(text: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with pytest.raises(yaml.YAMLError):
        read(text.format(witness=witness))
    assert not witness.exists()


def bomb(levels: int, width: int) -> str:
    lines = ["l0: &l0 [1]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text", [bomb(9, 10), bomb(40, 2), "&a [*a]", "a: &a {b: *a}", "&a [1, [2, [*a]]]"], ids=lambda t: t[:12]
)
def test_aliases_that_unfold_without_end(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="more values than any recipe has"):
        read(text)


def test_many_values_are_fine() -> None:
    assert len(read("[" + ", ".join(["0.5"] * 5000) + "]")) == 5000
    assert read(bomb(4, 3))["l3"] == [[[[1]] * 3] * 3] * 3


@pytest.mark.parametrize("text", ["a: 1\na: 1", "a: {weight: 1, density: 2, weight: 3}", "'a': 1\na: 2"])
def test_a_key_given_twice(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="given twice"):
        read(text)
