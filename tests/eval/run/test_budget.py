"""What a session may spend."""

from __future__ import annotations

import pytest

from eval.errors import EvalError
from eval.run.budget import Budget, parse_time, parse_tokens


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4h", 14400),
        ("90m", 5400),
        ("90min", 5400),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("3600s", 3600),
        ("1.5H", 5400),
        ("2d", 172800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("50M", 50_000_000),
        ("2G", 2 * 10**9),
        ("2b", 2 * 10**9),
        ("500k", 500_000),
        ("1.5M", 1_500_000),
        ("50000", 50_000),
        ("50,000", 50_000),
        ("50_000", 50_000),
    ],
)
def test_numbers_of_tokens(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


def test_no_limit_is_no_limit() -> None:
    assert parse_time(None) is None
    assert parse_tokens(None) is None
    budget = Budget()
    budget.spend(10**12)
    assert not budget.over()
    assert not budget.limited


@pytest.mark.parametrize("text", ["", "h", "4x", "-4h", "4h-", "1h30", "0h", "0m0s", "inf", "4hours", "h4"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(EvalError, match=r"--time .* is not a duration"):
        parse_time(text)


def test_a_plain_number_is_no_duration_and_the_remedy_names_the_units() -> None:
    with pytest.raises(EvalError) as caught:
        parse_time("90")
    assert caught.value.problem == "--time '90' has no unit"
    assert caught.value.remedy == "Write the unit: 90s, 90m or 90h."
    assert parse_time("90m") == 5400


@pytest.mark.parametrize("text", ["", "M", "50X", "-5M", "0", "0M", "1e6", "many", "0.0001K"])
def test_what_is_no_number_of_tokens_is_refused(text: str) -> None:
    with pytest.raises(EvalError, match=r"--tokens .* is not a number of tokens"):
        parse_tokens(text)


def test_few_tokens_without_a_unit_are_refused_since_millions_are_meant() -> None:
    with pytest.raises(EvalError) as caught:
        parse_tokens("50")
    assert "Did you mean 50M?" in caught.value.remedy


def test_a_budget_of_time_ends_with_the_clock() -> None:
    now = [100.0]
    budget = Budget(seconds=60, clock=lambda: now[0])
    now[0] = 159.9
    assert not budget.over(in_flight=10**9)
    assert budget.share(seconds=0.2, tokens=1) == pytest.approx(0.5)
    now[0] = 160.0
    assert budget.over()
    assert str(budget) == "1 min 0 s"


def test_a_budget_of_tokens_counts_those_in_flight() -> None:
    budget = Budget(tokens=50_000)
    budget.spend(30_000)
    assert not budget.over(in_flight=19_999)
    assert budget.over(in_flight=20_000)
    assert budget.share(seconds=None, tokens=80_000) == pytest.approx(0.25)
    assert str(budget) == "50 k tokens"


def test_of_two_limits_the_first_ends_it() -> None:
    now = [0.0]
    budget = Budget(60, 1000, clock=lambda: now[0])
    budget.spend(1000)
    assert budget.over()
    assert str(budget) == "1 min 0 s and 1 k tokens"
    other = Budget(60, 1000, clock=lambda: now[0])
    now[0] = 61
    assert other.over()
    assert "1 min 1 s and 0 tokens in this session" in other.reached().problem
