"""Metrics against their definitions, counted out."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.analysis import bootstrap, metrics
from eval.errors import DataError
from eval.run import files
from eval.schema import Interval, Problem, ProblemScore, Response, Scores, Verdict

from ..support import graders


def problem(answers: list[str | None], right: str = "r", tokens: int = 1) -> ProblemScore:
    correct = [a == right for a in answers]
    return ProblemScore("1", len(answers), sum(correct), 0, 0, 0, [tokens] * len(answers), answers, correct)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(correct: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(correct)))
    subsets = [any(s) for s in itertools.combinations(correct, k)]
    exact = Fraction(sum(subsets), len(subsets))
    # Each of the k factors of the product rounds once.
    assert metrics.pass_at(problem(["r" if c else "w" for c in correct]), k) == pytest.approx(float(exact), abs=1e-14)


def test_pass_at_k_of_many_samples() -> None:
    many = problem(["r"] + ["w"] * 99_999)
    assert metrics.pass_at(many, 50_000) == pytest.approx(0.5, abs=1e-9)  # C(100000, 50000) has 30,101 digits
    assert metrics.pass_at(many, 100_000) == 1.0
    assert metrics.pass_at(problem(["w"] * 4), 4) == 0.0


@pytest.mark.parametrize(
    ("answers", "k", "correct"),
    [
        (["r", "w", "r"], 3, True),
        (["w", "r", "w"], 3, False),
        (["w", "r", "r"], 1, False),
        (["r", "w"], 2, True),  # equally frequent: the first
        (["w", "r"], 2, False),
        (["w", "r", "r", "w"], 4, False),
        (["w", "v", "r", "r"], 4, True),
        ([None, None, "r"], 3, True),  # what was not read does not vote
        ([None, None, "r"], 2, False),
        ([None], 1, False),
    ],
)
def test_votes(answers: list[str | None], k: int, correct: bool) -> None:
    assert metrics.vote_at(problem(answers), k) == correct


@given(st.lists(st.sampled_from(["r", "v", "w", None]), min_size=1, max_size=9), st.data())
def test_a_vote_is_for_the_most_frequent(answers: list[str | None], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(answers)))
    counts = {a: answers[:k].count(a) for a in answers[:k] if a is not None}
    best = [a for a in counts if counts[a] == max(counts.values())]
    assert metrics.vote_at(problem(answers), k) == (best[:1] == ["r"])


@pytest.mark.parametrize("k", [0, 3])
def test_k_is_at_most_n(k: int) -> None:
    for metric in ("pass", "vote"):
        with pytest.raises(ValueError, match=f"k is {k}, but problem 1 has 2 responses"):
            metrics.values([problem(["r", "w"])], f"{metric}@{k}")


def run(rows: dict[str, list[tuple[str | None, bool, int, str, str]]], **changes: object) -> Scores:
    """Scores of problems, each with (answer, correct, tokens, finish_reason, text), shuffled as a run may be."""
    pairs = [
        (Response(name, i, 0, "", text, tokens, finish), Verdict(correct, answer, {"paper": not correct}))
        for name, samples in rows.items()
        for i, (answer, correct, tokens, finish, text) in enumerate(samples)
    ]
    pairs.reverse()
    problems = [Problem(name, "", None) for name in rows]
    return metrics.score(graders.benchmark(**changes), problems, [r for r, _ in pairs], [v for _, v in pairs])


ROWS = {
    "a": [("1", True, 10, "stop", "x</think>1"), ("2", False, 30, "length", "cut")],
    "b": [(None, False, 100, "length", "cut"), ("3", False, 20, "stop", "y</think>3")],
    "c": [("5", True, 5, "stop", "5"), ("5", True, 15, "stop", "5")],
}


def test_scores(tmp_path: object) -> None:
    scores = run(ROWS)
    assert (scores.samples, [p.id for p in scores.problems]) == (2, ["a", "b", "c"])
    assert scores.problems[0].answers == ["1", "2"], "samples are in order again"
    assert scores.mean.value == pytest.approx(3 / 6)
    assert {k: i.value for k, i in scores.passes.items()} == pytest.approx({1: 3 / 6, 2: 2 / 3})
    assert {k: i.value for k, i in scores.votes.items()} == pytest.approx({1: 2 / 3, 2: 2 / 3})
    assert scores.think.value == pytest.approx(2 / 6)
    assert scores.tokens.value == pytest.approx(30.0)
    assert (scores.tokens_median, scores.tokens_p95) == (17.5, 82.5)
    assert (scores.cut, scores.unparsed) == (pytest.approx(2 / 6), pytest.approx(1 / 6))
    assert scores.others["paper"].value == pytest.approx(3 / 6)
    edges, counts = scores.histogram
    assert len(edges) == len(counts) + 1
    assert {i for i, c in enumerate(counts) if c} == {int(4 * np.log2(t)) for t in (10, 30, 100, 20, 5, 15)}
    files.save_scores(str(tmp_path), scores)
    loaded = files.load_scores(str(tmp_path), "plain")
    assert (loaded.mean, loaded.passes, loaded.votes) == (scores.mean, scores.passes, scores.votes)
    assert metrics.difference(loaded, scores, "mean").interval == Interval(0, 0, 0)


def test_tokens_are_a_mean_and_a_response_thinks_once() -> None:
    """Token #N is no median, and a response that closes its reasoning twice holds `</think>` as others do."""
    texts = {10: "x</think>y</think>1", 20: "1", 60: "</think>1"}
    scores = run({"a": [("1", True, tokens, "stop", text) for tokens, text in texts.items()]})
    assert scores.tokens.value == 30
    assert scores.think.value == pytest.approx(2 / 3)


def test_a_response_that_was_not_graded_is_wrong_by_every_grading() -> None:
    asked = [Response("a", i, i, "", "", 1, "stop") for i in range(2)]
    verdicts = [Verdict(True, "1", {"paper": True}), Verdict(False, None)]
    scores = metrics.score(graders.benchmark(), [Problem("a", "", None)], asked, verdicts)
    assert (scores.mean.value, scores.others["paper"].value, scores.unparsed) == (0.5, 0.5, 0.5)


def test_any_length_is_in_the_histogram() -> None:
    _, counts = run({"a": [("1", True, t, "stop", "") for t in (0, 1, 131_072, 10**6)]}).histogram
    assert (counts[0], counts[-1], sum(counts)) == (2, 2, 4)


def test_without_votes_nothing_is_unread() -> None:
    scores = run({"a": [(None, True, 1, "stop", "")]}, votes=False)
    assert (scores.votes, scores.unparsed, list(scores.passes)) == ({}, 0.0, [1])


@pytest.mark.parametrize("rows", [{}, {"a": []}, {"a": ROWS["a"], "b": ROWS["b"][:1]}])
def test_unfinished_runs_are_refused(rows: dict[str, list[tuple[str | None, bool, int, str, str]]]) -> None:
    with pytest.raises(DataError, match="finish generating"):
        run(rows)


def test_intervals_are_of_the_bootstrap() -> None:
    """For a share p of m problems the bootstrap is binomial: its quantiles are known."""
    stats = pytest.importorskip("scipy.stats")
    found = bootstrap.mean_interval(np.repeat([1.0, 0.0], [30, 70]))
    exact = stats.binom(100, 0.3).ppf([0.025, 0.975]) / 100
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=0.011)  # a step of the binomial
    assert found == bootstrap.mean_interval(np.repeat([1.0, 0.0], [30, 70])), "drawn alike each time"
    assert bootstrap.mean_interval(np.full(30, 1.0)) == Interval(1, 1, 1)


@pytest.mark.parametrize("problems", [1, 7, 30, 541])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1 / 3, 0.7, 1.0, 17574.3])
def test_an_interval_of_equal_values_is_that_value(value: float, problems: int) -> None:
    assert bootstrap.mean_interval(np.full(problems, value)) == Interval(value, value, value)


def test_a_resample_in_which_two_runs_are_equal_is_not_above() -> None:
    """0.1 + 0.2 - 0.3 is more than 0 in floating point."""
    sizes = [(1, 0), (2, 0), (0, 3)]  # right answers of each run, of ten
    a, b = (
        run({str(n): [("r", i < pair[which], 1, "stop", "") for i in range(10)] for n, pair in enumerate(sizes)})
        for which in (0, 1)
    )
    exact = bootstrap._counts(3, bootstrap.SCORE_RESAMPLES, bootstrap.SEED) @ [1, 2, -3]
    for found, more in ((metrics.difference(a, b, "mean"), exact > 0), (metrics.difference(b, a, "mean"), exact < 0)):
        assert found.above == np.mean(more)
    assert np.mean(exact == 0) > 0.2


def test_pairing_takes_out_what_problems_share() -> None:
    """Scores spread from 0 to 1, the difference does not: only a paired interval is narrow."""
    spread = [[("r" if i < c else "w", i < c, 10, "stop", "") for i in range(20)] for c in range(19)]
    better = [[("r" if i < c + 1 else "w", i < c + 1, 20, "stop", "") for i in range(20)] for c in range(19)]
    a = run({str(n): rows for n, rows in enumerate(better)})
    b = run({str(n): rows for n, rows in reversed(list(enumerate(spread)))})
    found = metrics.difference(a, b, "mean")
    assert found.interval.value == pytest.approx(0.05)
    assert found.interval.high - found.interval.low < 1e-9
    assert found.above == 1.0
    assert a.mean.high - a.mean.low > 0.2
    assert metrics.difference(b, a, "mean").above == 0.0
    assert metrics.difference(a, b, "tokens").interval.value == 10
    with pytest.raises(DataError, match="not the same problems"):
        metrics.difference(a, run({"0": better[0]}), "mean")
    with pytest.raises(ValueError, match="unknown metric"):
        metrics.difference(a, b, "pass")
