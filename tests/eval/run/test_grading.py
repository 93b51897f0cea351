"""Reasoning is stripped, and no grader can hold up or bring down the others."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.benchmarks import aime25
from eval.errors import DataError
from eval.run import grading
from eval.schema import Problem, Response, Verdict

from ...support import ROOT
from ..support import graders

in_processes = pytest.mark.skipif(not importlib.util.find_spec("pebble"), reason="pebble is not installed")


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("so it is</think>\n\n70\n", "70"),
        ("one</think>two</think> 70", "70"),
        ("<think>one</think> 70", "70"),
        ("7<think>one</think><think>\ntwo</think>0", "70"),
        ("<think>one</think>7</think>0", "7</think>0"),
        ("<think>cut short: 70", "<think>cut short: 70"),
        (" 70\n", "70"),
        ("cut short</think>", ""),
        ("", ""),
    ],
)
def test_reasoning_is_stripped(text: str, rest: str) -> None:
    assert grading.strip_reasoning(text) == rest
    assert grading.graded_text("thinking", text) == grading.graded_text("merged", text) == rest
    assert grading.graded_text("instruct", text) == text


def responses(*texts: str, problem: str = "1") -> list[Response]:
    return [Response(problem, i, i, "", text, 5, "stop") for i, text in enumerate(texts)]


@in_processes
def test_bad_texts_cost_only_their_own_verdicts(caplog: pytest.LogCaptureFixture) -> None:
    asked = responses("x</think>70", "hang", "71", "die", "fail", "<think>y</think> 70")
    verdicts = grading.grade(
        graders.benchmark(), "merged", [Problem("1", "", "70")], asked, workers=2, limit_seconds=1.0
    )
    right = Verdict(True, "70", {"paper": True})
    unread = Verdict(False, None)
    assert verdicts == [right, unread, Verdict(False, "71", {"paper": True}), unread, unread, right]
    told = [record.getMessage() for record in caplog.records]
    assert [any(word in t for t in told) for word in ("within 1 s", "ProcessExpired", "ValueError")] == [True] * 3
    assert not any("the text is" in t for t in told), "a text may hold a private question"


@in_processes
def test_a_text_is_graded_once_in_another_process() -> None:
    one, two = Problem("1", "", ""), Problem("2", "", "")
    asked = responses("a</think>same", "b</think>same", "other") + responses("same", problem="2")
    verdicts = grading.grade(graders.benchmark(grade=graders.process), "merged", [one, two], asked, workers=1)
    assert len({v.answer for v in verdicts}) == 1
    assert verdicts[0] is verdicts[1]
    assert verdicts[0] is not verdicts[3]


@in_processes
def test_kept_processes_grade_the_next_run_too_and_end_with_the_context() -> None:
    def graded_by() -> str | None:
        asked = [Problem("1", "", "")]
        benchmark = graders.benchmark(grade=graders.process)
        return grading.grade(benchmark, "merged", asked, responses("a"), workers=1)[0].answer

    with grading.keeping_pools():
        first = graded_by()
        assert first is not None
        assert graded_by() == first
    with pytest.raises(ProcessLookupError):
        os.kill(int(first), 0)
    assert graded_by() != first


@in_processes
def test_graders_of_a_benchmark_start_in_their_processes() -> None:
    pytest.importorskip("math_verify")
    asked = responses(r"\boxed{7}</think>\boxed{70}", r"\boxed{71}")
    verdicts = grading.grade(aime25.BENCHMARK, "merged", [Problem("1", "", "70")], asked, workers=1)
    assert verdicts == [Verdict(True, "70", {"last box": True}), Verdict(False, "71", {"last box": False})]


@in_processes
@pytest.mark.parametrize(("reference", "error"), [("refuse", DataError), ("import", ModuleNotFoundError)])
def test_a_grader_that_cannot_work_at_all_is_told(reference: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="no checker"):
        grading.grade(graders.benchmark(grade=graders.refuse), "merged", [Problem("1", "", reference)], responses("a"))


def test_nothing_to_grade_and_unknown_problems() -> None:
    assert grading.grade(graders.benchmark(), "merged", [], []) == []
    with pytest.raises(KeyError):
        grading.grade(graders.benchmark(), "merged", [], responses("a"))


# The first worker grades everything, and takes 2 seconds to end. The others start after 1 second, when grading is over.
LATE_WORKERS = """
import os
import time
from multiprocessing import util

from eval.run import grading
from eval.schema import Benchmark, Problem, Response, Verdict

if __name__ == "__mp_main__":
    try:
        os.mkdir("first")
    except FileExistsError:
        time.sleep(1)


def grade(reference, text):
    if not util._finalizer_registry:
        util.Finalize(None, time.sleep, (2,), exitpriority=1)
    return Verdict(True, text)


if __name__ == "__main__":
    benchmark = Benchmark("right", "Right", 1, 10, list, grade)
    problems = [Problem(str(i), "", "") for i in range(4)]
    responses = [Response(problem.id, 0, 0, "", "yes", 1, "stop") for problem in problems]
    print(len(grading.grade(benchmark, "instruct", problems, responses, workers=4)))
"""


@in_processes
def test_workers_that_start_late_print_nothing(tmp_path: Path) -> None:
    """They are stopped while they start, and find what they were given: no half of a traceback on the terminal."""
    (tmp_path / "late.py").write_text(LATE_WORKERS)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "late.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("4\n", "", 0)
