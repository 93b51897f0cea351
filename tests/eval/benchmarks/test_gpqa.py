"""GPQA: two gradings, the order of options, and that no question is ever shown."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from eval.benchmarks import gpqa
from eval.errors import DataError


@pytest.mark.parametrize(
    ("text", "answer", "paper"),
    [
        ("ANSWER: D", "D", True),
        ("I think so.\n\n**ANSWER: D**", "D", True),
        ("ANSWER: $D$", "D", False),
        ("**ANSWER:** **D**", "D", False),
        ("ANSWER: (D)", "D", False),
        (r"Answer: $\boxed{\text{D}}$", "D", False),
        (r"ANSWER: \(D\)", "D", False),
        ("Answer: option D", "D", False),
        ("answer: d", "D", False),  # what the paper's pattern finds is compared as it is written
        ("ANSWER: A would be wrong.\nANSWER: D", "D", False),
        ("ANSWER: D\nwhereas ANSWER: A", "A", True),
        ("Answer: a photon", None, False),
        ("Answer: Done", None, True),
        ("Answer: A photon", None, False),
        ("Answer: A photon is emitted.\nANSWER: D", "D", False),
        ("ANSWER: A or D", None, False),
        ("ANSWER: **A** or **D**", None, False),
        ("ANSWER: D, B", None, True),
        ("ANSWER: D/A", None, True),
        ("ANSWER: D. A and B are wrong.", "D", True),
        ("ANSWER: A because it is heavier", "A", False),
        ("ANSWER: A) a photon", "A", False),
        ("ANSWER:\n\n**D**", "D", False),
        ("The answer is D.", "D", False),
        ("The correct answer is **(D)**.", "D", False),
        ("The correct option is D, because B is too small.", "D", False),
        ("So the answer is not D.", None, False),
        ("The answer is a photon.", None, False),
        ("The answer is A photon.", None, False),
        ("The answer is A or D.", None, False),
        ("The answer is B. Wait, the answer is D.", "D", False),
        ("ANSWER: D (the answer is A only in a vacuum)", "D", True),
        (r"So: $\boxed{D}$", "D", False),
        (r"So: \boxed{\text{D}}", "D", False),
        (r"So: \boxed{(D)}", "D", False),
        (r"So: \boxed{A photon}", None, False),
        (r"So: \boxed{3.5}", None, False),
        ("ANSWER: $LETTER", None, False),
        ("", None, False),
    ],
)
def test_answers(text: str, answer: str | None, paper: bool) -> None:
    verdict = gpqa.grade("D", text)
    assert (verdict.answer, verdict.correct, verdict.others) == (answer, answer == "D", {"paper": paper})


def write(path: Path, rows: int, columns: tuple[str, ...] = ("Question", *gpqa.COLUMNS)) -> str:
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Record ID", *columns])
        for n in range(1, rows + 1):
            texts = [f"Secret {n}, {{A}}?", f"right {n}", f"wrong {n}, {{question}}", "line\nbreak", "{D}"]
            writer.writerow([f"rec{n}", *texts[: len(columns)]])
    return str(path)


def test_order_of_options_and_prompt(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(data / "gpqa" / "gpqa_diamond.csv", 198)
    problems = gpqa.load(None)
    assert "".join(p.reference for p in problems[:5]) == "DCBAD"
    assert [sum(p.reference == letter for p in problems) for letter in "ABCD"] == [49, 49, 50, 50]
    assert problems[0].prompt == (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
        "\n\nSecret 1, {A}?\n\nA) wrong 1, {question}\nB) line\nbreak\nC) {D}\nD) right 1"
    )
    assert "not a known copy" in caplog.text
    assert "Secret" not in caplog.text


def test_refusals_hold_no_question(data: Path) -> None:
    path = write(data / "gpqa" / "gpqa_diamond.csv", 1, ("Question", "Correct Answer"))
    with pytest.raises(DataError, match="row 1 has no Incorrect Answer 1"):
        gpqa.load(path)
    headless = Path(path).read_text().split("\n", 1)[1]
    Path(path).write_text(headless + headless)
    with pytest.raises(DataError, match="row 1 has no Question") as error:
        gpqa.load(path)
    assert "Secret" not in str(error.value)


def test_the_way_to_it_is_told(data: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)cannot be downloaded.*Accept its terms.*dataset\.zip"):
        gpqa.load(None)
