"""Estimates, computed by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from eval import report
from eval.engines import kv_cache
from eval.run import files
from eval.run.estimate import PAPER_LENGTHS, Lengths, Point, Work, estimate, known_lengths, left_of, work_of
from eval.run.settings import Choices, make_part
from eval.schema import Response

from ..support import simulated
from ..support.fakes import PROBLEMS, sums


def test_nothing_known_is_as_long_as_in_the_paper_or_a_quarter_of_the_limit() -> None:
    works = [Work("gpqa", 10, 65536), Work("chains", 4, 256), Work("aime25", 2, 1000)]
    left = left_of([Point("out", None, works)], Lengths())
    assert left.tokens == 10 * 8427 + 4 * 64 + 2 * 1000  # no response exceeds the limit
    assert list(left.assumed) == [
        "gpqa 8,427 tokens per response (as in the paper)",
        "chains 64 tokens per response (a quarter of the limit)",
        "aime25 1,000 tokens per response (as in the paper)",
    ]


def test_what_is_finished_and_in_flight_is_not_generated_again() -> None:
    # 8 finished of 100 tokens each, and 6 missing: 6 * 100.
    done = Point("out", None, [Work("sums", 6, 1000, lengths=[100] * 8)])
    assert left_of([done], Lengths()).tokens == pytest.approx(600)
    # Without censoring, the two in flight have 50 of their 100.
    flying = left_of([Point("out", None, [Work("sums", 6, 1000, lengths=[100] * 98)])], Lengths(), [50, 50])
    assert flying.tokens == pytest.approx(600 - 100)
    assert list(flying.assumed) == ["sums 100 tokens per response (from 98 finished and 2 in flight)"]


def test_few_responses_say_little() -> None:
    # 2 of 100 tokens count as 2 of 8, the other 6 as usual, a quarter of 1,000: 212.5, of 8 responses less the 200.
    few = Point("out", None, [Work("sums", 6, 1000, lengths=[100, 100])])
    assert left_of([few], Lengths()).tokens == pytest.approx(8 * 212.5 - 200)


def test_the_others_are_at_least_as_long_as_usual_if_only_the_first_is_known() -> None:
    first = Point("lam-0", 0.0, [Work("sums", 2, 1000, lengths=[3] * 8)])
    other = Point("lam-1", 1.0, [Work("sums", 10, 1000)])
    left = left_of([first, other], Lengths())
    assert left.tokens == pytest.approx(2 * 3 + 10 * 250)
    assert left.assumed[-1] == "the other points have as many, or the usual number if that is larger"
    longer = Point("lam-0", 0.0, [Work("sums", 2, 1000, lengths=[900] * 8)])
    assert left_of([longer, other], Lengths()).tokens == pytest.approx(12 * 900)


def test_time_is_tokens_by_rate_and_what_each_later_point_takes_beside() -> None:
    works = [[Work("sums", 10, 400, prompt=100.0)] for _ in range(3)]
    points = [Point(f"lam-{i}", i / 2, work) for i, work in enumerate(works)]
    points[0].seconds = 30.0
    found = estimate(points, Lengths(), 50.0, folder=".", overhead=20.0, disk=10**6)
    assert (found.points, found.responses, found.tokens) == (3, 30, 3000)
    assert found.seconds == 3000 / 50 + 2 * 20
    assert found.disk == 30 * (100 * 4 + 100 + 400) + 10**6
    assert found.assumed[-1].startswith("the other points have as many")
    assert found.text.startswith(
        "3 points, 30 responses, about 3 k tokens, about 2 min at 50 tokens/s, 1.03 MB on disk"
    )
    unknown = estimate(points, Lengths(), None, folder=".")
    assert unknown.seconds is None
    assert "tokens/s" not in unknown.text


def test_reading_prompts_is_work_so_short_answers_do_not_make_long_ones_look_slow() -> None:
    # A prompt of 80 bytes is 20 tokens and 20 of the template. After 100 answers of 2 tokens, at 420 tokens a second
    # with those of prompts, the engine has generated 20 a second. Another point has answers of 100 tokens.
    points = [Point("lam-1", 1.0, [Work("sums", 100, 400, prompt=80.0)])]
    found = estimate(points, Lengths(), 20.0, speed=420.0, folder=".")
    assert found.tokens == 100 * 100
    assert found.seconds == pytest.approx(100 * (100 + 40) / 420)


def test_other_points_are_as_long_as_at_their_neighbours() -> None:
    lengths, work = Lengths(), Work("sums", 2, 1000)
    lengths.add("sums", 0.0, 100)
    lengths.add("sums", 1.0, 300)
    assert [lengths.at(work, lam) for lam in (0.0, 0.25, 1.0)] == [100, 150, 300]
    assert lengths.at(Work("other", 1, 1000), 0.5) is None
    assert lengths.at(work, None) is None
    lengths.add("sums", 0.5, 400)
    assert lengths.at(work, 0.75) == 350
    left = left_of([Point("a", 0.75, [work])], lengths)
    assert (left.tokens, list(left.assumed)) == (700, ["sums 350 tokens per response (as at other lam)"])


def test_beyond_the_known_lam_a_response_is_as_long_as_the_nearest_or_as_usual() -> None:
    lengths = Lengths()
    lengths.add("sums", 0.4, 100)
    lengths.add("sums", 0.6, 200)
    assert [lengths.at(Work("sums", 1, limit), 1.0) for limit in (400, 1000)] == [200, 250]
    assert [lengths.at(Work("sums", 1, limit), 0.0) for limit in (200, 1000)] == [100, 250]


def test_the_work_of_a_run_is_what_its_journal_misses() -> None:
    part = make_part(sums(), "merged", Choices(samples=2), None)
    first = PROBLEMS[0]
    done = {(first.id, 0): Response(first.id, 0, 0, first.prompt, "x", 7, "stop")}
    work = work_of(part, done)
    assert (work.benchmark, work.missing, work.limit, work.lengths) == ("sums", 2 * len(PROBLEMS) - 1, 100, [7])
    assert work.prompt == len(first.prompt)  # the numbers have one digit


def test_runs_without_scores_say_nothing(tmp_path: Path) -> None:
    known = simulated.scores(0.5, 0.5, benchmark="sums", tokens=1000, samples=64)
    (tmp_path / "a").mkdir()
    files.save_scores(str(tmp_path / "a"), known)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "sums.scores.json").write_text("{")
    folders = [(lam, str(tmp_path / name)) for lam, name in ((0.5, "a"), (0.6, "b"), (0.7, "c"))]
    assert known_lengths(folders, "sums") == [(0.5, known.tokens.value)]


def test_the_papers_lengths_are_those_of_its_tables() -> None:
    with open(Path(report.__file__).with_name("paper.csv"), encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "Table 2" and "Qwen3-4B" in row["instruct"]]
    found = {row["benchmark"]: int(row["tokens"]) for row in rows if row["variant"] == "MI-0.8"}
    assert found == PAPER_LENGTHS
    longest = max(int(row["tokens"]) for row in rows if row["benchmark"] == "aime25")
    assert round(longest / 81920, 2) == kv_cache.MEAN_OF_LIMIT
