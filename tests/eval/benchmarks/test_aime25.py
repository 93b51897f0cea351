"""AIME'25: what counts as the answer, as math-verify under OpenCompass's settings reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from eval.benchmarks import aime25
from eval.errors import DataError

FAR = "This is a long remark about something else that happened on the way to this answer. " * 2


@pytest.mark.parametrize(
    ("text", "correct", "answer"),
    [
        (r"So it is \boxed{70}.", True, "70"),
        (r"$$\boxed{070}$$", True, "70"),
        (r"\boxed{70.0}", True, "70"),
        (r"\boxed{m+n=70}", True, "70"),
        (r"\boxed{\frac{140}{2}}", True, "70"),
        (r"\boxed{\boxed{70}}", True, "70"),
        (r"\boxed{70^\circ}", True, "70"),
        (r"\boxed{71}", False, "71"),
        (r"\boxed{71.0}", False, "71"),
        (r"\boxed{m+n=71}", False, "71"),
        (r"\boxed{12\sqrt{2}}", False, "12*sqrt(2)"),
        (r"\boxed{}", False, None),
        (r"\boxed{70", False, None),
        ("The answer is 70.", False, None),
        ("$70$", False, None),
        ("", False, None),
        (rf"\boxed{{71}}. {FAR} So \boxed{{70}}.", True, "70"),
        (rf"\boxed{{70}}. {FAR} So \boxed{{71}}.", False, "71"),
        # math-verify reads boxes close to each other as one answer, a set.
        (r"\boxed{71}, \boxed{70}", False, "{70, 71}"),
    ],
)
def test_answers(text: str, correct: bool, answer: str | None) -> None:
    verdict = aime25.grade("70", text)
    assert (verdict.correct, verdict.answer) == (correct, answer)


@pytest.mark.parametrize(
    "name", ["problems.jsonl", "problems.json", "aime2025/test.jsonl", "aime2025/aime2025-I.jsonl"]
)
def test_loading(data: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": f"I-{n}", "question": f"What is ${{{n}}}$?", "answer": n} for n in (1, 2)]
    path = data / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows)) + "\n")
    where: str | None = str(path)
    if name.startswith("aime2025"):
        where = None
    if name.endswith("-I.jsonl"):  # without ids, in two files, and named by another field
        path.write_text('{"question": "What is ${1}$?", "answer": 1}\n')
        (path.parent / "aime2025-II.jsonl").write_text('{"problem": "What is ${2}$?", "answer": "2"}\n')
    first, second = aime25.load(where)
    assert (first.id, second.id) == (("1", "2") if name.endswith("-I.jsonl") else ("I-1", "I-2"))
    assert first.reference == "1"
    assert first.prompt == "What is ${1}$?\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert "not a known copy" in caplog.text


def test_published_problems(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not (published / "aime2025" / "test.jsonl").is_file():
        pytest.skip("AIME 2025 is not here")
    problems = aime25.load(None)
    assert len(problems) == 30
    assert not caplog.text
    for problem in problems:
        assert aime25.grade(problem.reference, f"\\boxed{{{problem.reference}}}").correct


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"question": "q", "answer": "n/a"}, "row 1: the answer is 'n/a', which is not a number"),
        ({"question": "q", "answer": ""}, "row 1: the answer is ''"),
        ({"question": "q", "answer": True}, "row 1: the answer is 'True'"),
        ({"question": ["q"], "answer": 1}, "row 1: question or problem is not text but list"),
        ({"question": " ", "answer": 1}, "row 1: question or problem is empty"),
    ],
)
def test_rows_that_cannot_be_asked_or_graded_are_refused(data: Path, row: dict[str, object], problem: str) -> None:
    path = data / "rows.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError, match=re.escape(problem)):
        aime25.load(str(path))


@pytest.mark.parametrize("answer", [70, "70", "-70", "70.0", r"\frac{1}{2}", "2^{10}"])
def test_numbers_are_references(data: Path, answer: object) -> None:
    path = data / "rows.json"
    path.write_text(json.dumps([{"question": "q", "answer": answer}]))
    assert aime25.load(str(path))[0].reference == str(answer)


@pytest.mark.parametrize(
    ("text", "paper", "last_box"),
    [
        (r"\boxed{70}", True, True),
        (r"\boxed{71}", False, False),
        (r"\boxed{\text{070}}", False, True),
        (r"\boxed{70°}", False, True),
        (r"\boxed{70^{\circ}}", True, True),
        (r"\boxed{71}. No: \boxed{70}.", False, True),
        (r"\boxed{70}. No: \boxed{71}.", False, False),
        (r"\boxed{70 = m+n}", False, True),
        (r"\boxed{m + n = 70}", True, True),
        (r"\boxed{71 = m+n}", False, False),
        (r"\boxed{70 \text{ square units}}", True, True),
        (r"\boxed{70\ \mathrm{cm}^2}", True, True),
        (r"\boxed{\frac{140}{2}}", True, True),
        (r"\boxed{70 = 71}", False, False),
        (r"\boxed{70, 71}", False, False),
        (r"\boxed{170}", False, False),
        (r"\boxed{}", False, False),
        (rf"\boxed{{70}}. {FAR} \boxed{{", True, True),
        ("70", False, False),
    ],
)
def test_the_last_box_is_graded_beside_the_papers_rule(text: str, paper: bool, last_box: bool) -> None:
    verdict = aime25.grade("70", text)
    assert (verdict.correct, verdict.others) == (paper, {"last box": last_box})
