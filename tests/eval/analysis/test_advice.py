"""Advice: the best, its equals, a budget, the front; and what the data cannot support."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.analysis import advice
from eval.schema import ProblemScore

from ..support import simulated

# name: (lam, mean, tokens): the 4B models of Table 2 on AIME'25.
PAPER = {
    "Instruct": (0.0, 0.466, 15097),
    "MI-0.4": (0.4, 0.558, 12448),
    "MI-0.6": (0.6, 0.71, 12681),
    "MI-0.8": (0.8, 0.805, 17574),
    "Thinking": (1.0, 0.804, 22813),
}


def candidate(name: str, lam: float, mean: float, tokens: float, **options: object) -> advice.Candidate:
    return advice.Candidate(name, lam, {"aime25": simulated.scores(lam, 0.5, mean=mean, tokens=tokens, **options)})


def paper(**options: object) -> list[advice.Candidate]:
    return [candidate(name, *values, **options) for name, values in PAPER.items()]


def exact(name: str, correct: list[int], tokens: int) -> advice.Candidate:
    """A model with so many right answers of ten to each problem."""
    rows = [ProblemScore(str(i), 10, c, 0, 0, 0, [tokens] * 10, [], []) for i, c in enumerate(correct)]
    return advice.Candidate(name, None, {"aime25": replace(simulated.scores(0, 0.5), problems=rows)})


def test_the_best_its_equals_and_the_front() -> None:
    found = advice.advise(paper(samples=64))
    assert found.best is not None
    assert set(found.best.equals) == {"MI-0.8", "Thinking"}  # 80.5 and 80.4
    assert found.best.cheapest.name == "MI-0.8"
    front = [name for name, _ in found.front]
    assert front[:3] == ["MI-0.4", "MI-0.6", "MI-0.8"]
    assert all(often > 0.5 for name, often in found.front[:3])
    assert "MI-0.8" in advice.sentences(found)[0]


@pytest.mark.parametrize(
    ("budget", "chosen", "words"),
    [
        (30000, None, ""),
        (13000, "MI-0.6", "Within 13,000 tokens per answer: MI-0.6"),
        (15500, "MI-0.6", "lam = 0.72 may use the budget better"),
        (8000, "nothing", "No model needs at most 8,000 tokens per answer: the cheapest, MI-0.4"),
        (12465, "MI-0.4", "MI-0.4 may exceed 12,465 tokens on other problems"),
    ],
)
def test_a_budget(budget: float, chosen: str | None, words: str) -> None:
    found = advice.advise(paper(), budget=budget)
    if chosen == "nothing":
        assert found.within is None
    else:
        assert found.within is not None
        assert found.within.best.tokens.value <= budget
        assert chosen in (None, found.within.best.name)
    assert words in " ".join(advice.sentences(found))


# Each is 0.46 in the mean, and added up in their order two of them differ in the last bit.
ALIKE = ([3, 1, 8, 2, 9] * 2, [9, 1, 2, 3, 8] * 2)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("cheap", "dear"), [ALIKE, ALIKE[::-1], ALIKE[:1] * 2])
def test_of_models_with_the_same_mean_the_cheapest_is_the_best(cheap: list[int], dear: list[int], order: int) -> None:
    found = advice.advise([exact("dear", dear, 200), exact("cheap", cheap, 100)][::order], budget=300)
    for choice in (found.best, found.within):
        assert choice is not None
        assert choice.best.name == choice.cheapest.name == "cheap"
        assert list(choice.equals) == ["cheap", "dear"]
        assert choice.loss.value == 0
    assert found.front == [("cheap", 1.0)]


def test_of_models_with_as_many_tokens_the_better_comes_first() -> None:
    found = advice.advise([exact("worse", [4, 5] * 5, 100), exact("better", [6, 4] * 5, 100)])
    assert found.best is not None
    assert found.best.best.name == found.best.cheapest.name == "better"
    assert list(found.best.equals) == ["better", "worse"]


@pytest.mark.parametrize("correct", [ALIKE, ALIKE[::-1], ALIKE[:1] * 2])
def test_of_models_alike_in_both_the_first_is_the_best(correct: tuple[list[int], list[int]]) -> None:
    found = advice.advise([exact("a", correct[0], 100), exact("b", correct[1], 100)])
    assert found.best is not None
    assert found.best.best.name == found.best.cheapest.name == "a"
    assert [name for name, _ in found.front] == ["a", "b"]


def test_a_budget_holds_what_takes_exactly_as_much() -> None:
    found = advice.advise([exact("a", [5] * 10, 100), exact("b", [9] * 10, 101)], budget=100)
    assert found.within is not None
    assert found.within.best.name == "a"


def test_a_difference_is_paired() -> None:
    """Problems differ far more than the models do: unpaired intervals overlap, the paired difference is clear."""
    models = [candidate("a", 0.1, 0.45, 100, samples=256), candidate("b", 0.2, 0.49, 200, samples=256)]
    found = advice.advise(models)
    assert found.best is not None
    assert found.best.equals == ["b"]
    assert found.best.best.mean.low < models[0].scores["aime25"].mean.value


def test_a_cheaper_equal_is_named_with_what_it_may_cost() -> None:
    found = advice.advise([candidate("cheap", 0.6, 0.5, 1000), candidate("dear", 0.8, 0.52, 2000)])
    assert found.best is not None
    assert (found.best.best.name, found.best.cheapest.name) == ("dear", "cheap")
    assert found.best.loss.low <= 0 < found.best.loss.high
    said = advice.sentences(found)[0]
    assert "is not significantly worse" in said
    assert any("No two models differ significantly" in note for note in found.notes)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([candidate("a", 0, 0.5, 100)], "Only a was evaluated"),
        ([candidate("a", 0, 0.5, 100, problems=4), candidate("b", 1, 0.5, 100, problems=4)], "4 problems are too few"),
        ([candidate("a", 0, 0.5, 100, cut=4), candidate("b", 1, 0.5, 100)], "cut many answers (up to 25 %, a)"),
    ],
)
def test_what_the_data_cannot_support(models: list[advice.Candidate], words: str) -> None:
    assert words in " ".join(advice.sentences(advice.advise(models)))


def test_over_benchmarks_weighs_them_alike_and_leaves_out_what_lacks_one() -> None:
    def both(name: str, aime: float, ifeval: float) -> advice.Candidate:
        scores = {
            "aime25": simulated.scores(0, 0.5, mean=aime, tokens=1000),
            "ifeval": simulated.scores(0, 0.5, mean=ifeval, tokens=3000, problems=200, benchmark="ifeval"),
        }
        return advice.Candidate(name, None, scores)

    found = advice.advise([both("a", 0.4, 0.6), both("b", 0.6, 0.5), candidate("c", 1.0, 0.9, 10)])
    assert found.best is not None
    assert found.best.best.name == "b"
    assert found.best.best.tokens.value == pytest.approx(2000, rel=0.02)
    assert found.models == 2
    assert "Excluded because a benchmark is missing: c." in found.notes
