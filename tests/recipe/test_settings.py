"""Settings: numbers, gradients and conditions, with mergekit's values."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest

from mi_kernels.errors import ArgumentError
from mi_kernels.methods.parameters import NORMALIZE, WEIGHT
from mi_kernels.recipe.settings import check, evaluate

from ..support.setting_cases import CASES, DEPTHS, NAMES, NORM, UP, Q


@pytest.mark.parametrize(
    ("setting", "name", "t", "value"),
    [
        (0.3, Q, 0.5, 0.3),
        ("1e-3", Q, 0.5, 0.001),
        ([0, 1], Q, 1 / 3, 1 / 3),
        ([0, 0.5, 0.3, 0.7, 1], Q, 0.25, 0.5),
        ([0, 0.5, 0.3, 0.7, 1], Q, 0.5, 0.3),
        ([0, 0.5, 0.3, 0.7, 1], Q, 1, 1),
        ([0, 0.5, 0.3, 0.7, 1], Q, 34 / 35, (1 - (34 / 35 * 4 - 3)) * 0.7 + (34 / 35 * 4 - 3)),
        ([0.1], Q, 1, 0.1),
        ([{"filter": "self_attn", "value": [0, 1]}, {"value": 0.25}], Q, 0.75, 0.75),
        ([{"filter": "self_attn", "value": [0, 1]}, {"value": 0.25}], UP, 0.75, 0.25),
        ([{"filter": "proj", "value": 1}, {"filter": "self_attn", "value": 2}], Q, 0, 1),  # the first that matches
        ([{"filter": "*", "value": 0.1}, {"value": 0.2}], NORM, 0, 0.1),
        ([{"filter": "mlp", "value": 0.8}], Q, 0, None),
        ({"filter": "norm", "value": 2}, NORM, 0, 2),
        ({"filter": "norm", "value": 2}, UP, 0, None),
    ],
)
def test_values(setting: Any, name: str, t: float, value: float | None) -> None:
    check(setting, "here", WEIGHT, "linear")
    assert evaluate(setting, name, t) == value


@pytest.mark.parametrize(("t", "value"), [(0, 1), (0.49, 1), (0.5, 0), (0.99, 0), (1, 1)])
def test_true_and_false_step(t: float, value: float) -> None:
    """Half true is no value: each holds from its anchor to the next."""
    assert evaluate([True, False, True], Q, t, truth=True) == value


@pytest.mark.parametrize(("setting", "truth"), CASES)
def test_every_case_passes_the_check(setting: Any, truth: bool) -> None:
    check(setting, "here", NORMALIZE if truth else WEIGHT, "linear")
    values = [evaluate(setting, name, t, truth) for name in NAMES for t in DEPTHS]
    assert all(v is None or math.isfinite(v) for v in values)
    if truth:
        assert set(values) <= {0, 1}


REFUSED: dict[str, tuple[Any, str]] = {
    "text": ("abc", "'abc', which is not a number"),
    "nothing": (None, "None, which is not a number"),
    "empty_list": ([], "list is empty"),
    "nan": (math.nan, "not finite"),
    "inf": (math.inf, "not finite"),
    "nan_in_quotes": ("nan", "not finite"),
    "inf_in_quotes": ("-inf", "not finite"),
    "beyond_float32": (1e39, "not finite in float32"),
    "hundreds_of_digits": (10**400, "not finite"),
    "mixed": ([0.5, {"value": 1}], "numbers and conditions"),
    "nested": ([[0, 1], 1], "list is in a list"),
    "text_in_a_gradient": ([0, "x"], "'x', which is not a number"),
    "condition_without_value": ([{"filter": "mlp"}], "is not a condition"),
    "condition_with_more": ([{"filter": "mlp", "value": 1, "weight": 2}], "is not a condition"),
    "filter_that_is_no_text": ([{"filter": 3, "value": 1}], "filter 3 is not text"),
    "value_of_a_condition": ([{"value": "x"}], "'x', which is not a number"),
    "empty_gradient_of_a_condition": ([{"value": []}], "list is empty"),
    "date": (datetime.date(2020, 1, 1), "not a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    setting, words = REFUSED[case]
    with pytest.raises(ArgumentError) as error:
        check(setting, "file.yml", WEIGHT, "linear")
    assert words in error.value.problem
    assert error.value.problem.startswith("file.yml: weight")
    assert error.value.remedy


@pytest.mark.parametrize("setting", [0.5, "x", [True, 2], [{"value": 0.3}]])
def test_what_is_neither_true_nor_false(setting: Any) -> None:
    with pytest.raises(ArgumentError, match=r"not true or false|not a number"):
        check(setting, "here", NORMALIZE, "linear")
