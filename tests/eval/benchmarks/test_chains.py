"""The benchmark of chains: its problems, and what counts as an answer."""

from __future__ import annotations

import pytest

from eval import benchmarks
from eval.benchmarks import chains
from eval.errors import EvalError
from eval.tiny_pair import task


def recomputed(text: str) -> int:
    """The value of a chain, read from its text: `a9b-6c*7` is ((9 - 6) * 7) % 10."""
    expression = ""
    for character in text:
        expression = f"({expression})%10" if character in task.LABELS and expression else expression
        expression += "" if character in task.LABELS else character
    return int(eval(expression)) % 10


def test_the_problems_are_the_same_every_time_and_kept_from_training() -> None:
    problems = benchmarks.get("chains").load(None)
    assert problems == chains.load(None)
    assert len({p.id for p in problems}) == len({p.prompt for p in problems}) == chains.PROBLEMS == 64
    for problem in problems:
        assert problem.reference == recomputed(problem.prompt)
        digits = [int(c) for c in problem.prompt if c.isdigit()]
        assert task.is_test(task.Chain(digits, "".join(c for c in problem.prompt if c in "+-*")))
    # So that a test that compares problems of the shape a9b-6c*7 has all of them to compare.
    assert {len(p.prompt) for p in problems} == {3 * task.LENGTH - 1}


def test_data_from_elsewhere_are_refused() -> None:
    with pytest.raises(EvalError, match="elsewhere"):
        chains.load("elsewhere")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("=7", "7"),
        ("a9b3c7=7", "7"),
        ("3, no: 7", "7"),
        ("=07", "7"),
        ("=00", "0"),
        ("=77", "77"),
        ("=\u0667", None),
        ("7 is not " + "9" * 5000, "9" * 5000),
        ("", None),
        ("no digit", None),
    ],
)
def test_the_last_number_is_the_answer(text: str, answer: str | None) -> None:
    verdict = chains.grade(7, text)
    assert (verdict.answer, verdict.correct) == (answer, answer == "7")
