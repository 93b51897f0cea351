"""Runs that are estimated, confirmed and stopped, on a clock of the tests' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.errors import EvalError
from eval.run import driver
from eval.run.budget import Budget, BudgetReached
from eval.run.driver import Subject
from eval.run.estimate import Estimate, Point, Work
from eval.run.files import load_responses
from eval.run.session import Session
from eval.run.settings import Choices

from ..support.clock import Clock, SlowEngine
from ..support.fakes import PROBLEMS, FakeEngine, grade_here, model, sums

ALL = len(PROBLEMS) * 4
TOKENS = [5 + seed % 7 for seed in range(ALL)]  # of the fakes' responses


@pytest.fixture(autouse=True)
def quick_grading(monkeypatch):
    monkeypatch.setattr("eval.run.grading.grade", grade_here)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


class Asked:
    """A confirmation that is needed or not, and remembers the estimates."""

    def __init__(self, needed: bool, confirmed: bool = True) -> None:
        self.is_needed, self.confirmed = needed, confirmed
        self.seen: list[Estimate] = []
        self.questions: list[Estimate] = []

    def needed(self, estimate: Estimate) -> bool:
        self.seen.append(estimate)
        return self.is_needed

    def ask(self, estimate: Estimate) -> None:
        self.questions.append(estimate)
        if not self.confirmed:
            raise EvalError("no", "")


def evaluate(tmp_path: Path, engine: FakeEngine, session: Session, *benchmarks, out: str = "out", choices=None) -> str:
    folder = model(tmp_path / "model")
    where = str(tmp_path / out)
    return driver.run(
        folder, benchmarks or (sums(),), where, engine, choices, Subject("merged"), progress=False, session=session
    )


def kept(tmp_path: Path, out: str = "out", benchmark: str = "sums") -> int:
    return len(load_responses(str(tmp_path / out), benchmark))


def scores(tmp_path: Path, out: str = "out", benchmark: str = "sums") -> str:
    return (tmp_path / out / f"{benchmark}.scores.json").read_text()


def test_the_burst_measures_and_nothing_is_generated_for_it_alone(tmp_path, clock, capsys):
    asked = Asked(needed=False)
    engine = SlowEngine(clock)
    evaluate(tmp_path, engine, Session(confirmation=asked))
    assert len(asked.seen) == 1
    assert len(engine.asked) == ALL, "every response is requested once"
    assert not engine.dropped
    found = asked.seen[0]
    # After 8 s, 4 responses at a time at one token a second: those of 5, 6, 7 and 8 tokens are finished, and those that
    # followed them have 3, 2 and 1.
    assert found.rate == 4.0
    assert found.responses == ALL - 4
    text = capsys.readouterr().err
    assert text.startswith(f"to generate: {ALL} responses, about {ALL * 25} tokens, ")  # a quarter of the limit, 100
    assert "\nestimate: 16 responses, about " in text
    assert "from 4 finished and 3 in flight" in text


def test_a_question_drops_what_is_in_flight_and_a_yes_generates_it_again(tmp_path, clock):
    evaluate(tmp_path, FakeEngine(), Session(shown=False), out="whole")
    asked = Asked(needed=True)
    engine = SlowEngine(clock)
    current = Session(confirmation=asked, shown=False)
    evaluate(tmp_path, engine, current)
    assert len(asked.questions) == 1
    assert len(engine.dropped) == 3
    assert len(engine.asked) == ALL + ALL - 4, "the finished ones of the burst are not requested again"
    assert kept(tmp_path) == ALL
    assert scores(tmp_path) == scores(tmp_path, "whole")
    assert current.budget.spent == sum(TOKENS) + 3 + 2 + 1, "dropped tokens are spent"


def test_a_no_keeps_the_responses_of_the_burst(tmp_path, clock):
    with pytest.raises(EvalError, match="no"):
        evaluate(tmp_path, SlowEngine(clock), Session(confirmation=Asked(True, confirmed=False), shown=False))
    assert kept(tmp_path) == 4
    assert not (tmp_path / "out" / "sums.scores.json").exists()
    again = FakeEngine()
    evaluate(tmp_path, again, Session(shown=False))
    assert len(again.asked) == ALL - 4


def test_work_that_ends_within_the_burst_is_not_asked_about(tmp_path, clock):
    asked = Asked(needed=True)
    three = Choices(samples=1, limit=3)  # of 5, 6 and 7 tokens
    evaluate(tmp_path, SlowEngine(clock), Session(confirmation=asked, shown=False), choices=three)
    assert not asked.seen


def test_a_burst_waits_for_the_first_token_but_not_forever(tmp_path, clock):
    class Silent(SlowEngine):
        """As a server: knows the tokens of finished responses only."""

        def running(self):
            return []

    asked = Asked(needed=False)
    engine = Silent(clock)
    long = 70

    def generate(requests, stop):
        for _ in range(long):
            stop()
            clock.now += 1
        yield from ()

    engine.generate = generate
    evaluate_part = Session(confirmation=asked, shown=False)
    point = Point("out", None, [Work("sums", 4, 100)])
    with evaluate_part.generating(point, engine.running) as generation:
        list(generate([], generation.stop))
    assert [found.rate for found in asked.seen] == [None]
    assert asked.seen[0].seconds is None


# Those in the four slots end after 5, 6, 7 and 8 s, the next ones after 14, 16, 18 and 13.
@pytest.mark.parametrize(("seconds", "finished"), [(1, 0), (5, 1), (10, 4), (17, 7)])
def test_a_budget_of_time_stops_a_run_that_the_same_command_resumes(tmp_path, clock, seconds, finished):
    evaluate(tmp_path, FakeEngine(), Session(shown=False), out="whole")
    engine = SlowEngine(clock)
    start = clock.now
    with pytest.raises(BudgetReached) as caught:
        evaluate(tmp_path, engine, Session(Budget(seconds), shown=False))
    assert clock.now - start == seconds
    assert f"the budget of {seconds} s is spent: {seconds} s and " in caught.value.problem
    assert kept(tmp_path) == finished
    assert len(engine.dropped) == 4 - (seconds in (5,))  # a slot is filled in the next second
    assert not (tmp_path / "out" / "sums.scores.json").exists(), "the responses so far are the short ones"
    sessions = 1
    while kept(tmp_path) < ALL and sessions < 10:
        sessions += 1
        try:
            evaluate(tmp_path, SlowEngine(clock), Session(Budget(seconds=20), shown=False))
        except BudgetReached:
            continue
    assert scores(tmp_path) == scores(tmp_path, "whole")


def test_the_time_of_the_engines_start_counts(tmp_path, clock):
    engine = SlowEngine(clock, start=30.0)
    with pytest.raises(BudgetReached):
        evaluate(tmp_path, engine, Session(Budget(seconds=20), shown=False))
    assert engine.asked
    assert kept(tmp_path) == 0


@pytest.mark.parametrize("tokens", [4, 40, 100])
def test_a_budget_of_tokens_counts_those_in_flight(tmp_path, clock, tokens):
    engine = SlowEngine(clock)
    current = Session(Budget(tokens=tokens), shown=False)
    with pytest.raises(BudgetReached):
        evaluate(tmp_path, engine, current)
    assert tokens <= current.budget.spent < tokens + engine.width
    assert current.budget.spent >= sum(r.tokens for r in load_responses(str(tmp_path / "out"), "sums"))
    assert current.remaining()[0].endswith(f"{kept(tmp_path)} of {ALL} responses") or not kept(tmp_path)


def test_a_budget_that_ends_with_the_last_response_is_enough(tmp_path, clock):
    current = Session(Budget(tokens=sum(TOKENS)), shown=False)
    evaluate(tmp_path, FakeEngine(), current)
    assert current.budget.spent == sum(TOKENS)
    evaluate(tmp_path, FakeEngine(), current)  # complete: nothing is generated, so nothing is refused
    with pytest.raises(BudgetReached):
        evaluate(tmp_path, FakeEngine(), current, out="other")


def test_complete_benchmarks_of_a_stopped_run_are_scored(tmp_path, clock):
    engine = FakeEngine()
    first = sums("more", samples=1)
    tokens = sum(5 + seed % 7 for seed in range(len(PROBLEMS)))
    engine.generate = lambda requests, stop: FakeEngine.generate(engine, requests[::-1], stop)  # the first comes first
    with pytest.raises(BudgetReached):
        evaluate(tmp_path, engine, current := Session(Budget(tokens=tokens + 20), shown=False), first, sums())
    assert scores(tmp_path, benchmark="more")
    assert not (tmp_path / "out" / "sums.scores.json").exists()
    assert current.complete_benchmarks(str(tmp_path / "out")) == ["more"]


def test_an_interrupt_after_the_budget_is_reached_loses_nothing(tmp_path, clock):
    engine = SlowEngine(clock)

    def interrupt():
        raise KeyboardInterrupt

    engine.deeds[9] = interrupt
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, engine, Session(Budget(seconds=60), shown=False))
    assert kept(tmp_path) == 4
    again = FakeEngine()
    evaluate(tmp_path, again, Session(Budget(seconds=60), shown=False))
    assert len(again.asked) == ALL - 4


def test_progress_of_several_points_names_the_point_and_the_time_for_all(clock, capsys):
    current = Session()
    points = [Point(f"out/lam-{lam:g}", lam, [Work("sums", 100, 40)]) for lam in (0.0, 0.5, 1.0)]
    current.announce(points, "out")
    clock.now += 5  # the engine starts
    current.begin(points[0])
    with current.generating(points[0], list) as generation:
        for _ in range(50):
            generation.add("sums", 10)
        clock.now += 61
        generation.stop()
    line = capsys.readouterr().err.splitlines()[-1]
    # 500 tokens in 61 s, 500 left; then twice 1,000 tokens and 5 s beside.
    assert line == ("point 1 of 3, lam-0: 50 of 100 responses, 8 tokens/s, 1 min 1 s left, 5 min 15 s for all points")


def test_on_a_terminal_there_is_a_bar_with_the_same_words(clock, monkeypatch):
    from tests.support.terminal import on_terminal

    with on_terminal(monkeypatch, columns=140) as terminal:
        current = Session()
        points = [Point(f"out/lam-{lam:g}", lam, [Work("sums", 100, 40)]) for lam in (0.0, 1.0)]
        current.announce(points, "out")
        with current.generating(points[0], list) as generation:
            for _ in range(50):
                generation.add("sums", 10)
            clock.now += 50
            generation.stop()
            text = terminal.printed()
    assert "point 1 of 2, lam-0:" in text
    assert "50/100 responses, 10 tokens/s, 50 s left, 2 min 30 s for all points" in text
