"""Responses generated elsewhere: each format is read, each row finds its problem, the scores are those of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.cli import program as cli
from eval.run import elsewhere
from eval.run.files import load_scores

from ..support.fakes import PROBLEMS, grade_here, sums

RIGHT = [f"hm</think>It is {2 * i}" for i in range(5)]
TEXTS = [RIGHT[0], "It is 7", RIGHT[2], RIGHT[3], "hm</think>It is 1"]  # three of five are right


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    monkeypatch.setattr("eval.run.grading.grade", grade_here)
    monkeypatch.setattr("eval.benchmarks.names", lambda: ["sums"])
    monkeypatch.setattr("eval.benchmarks.get", lambda name: sums())
    monkeypatch.chdir(tmp_path)


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def chat(prompt: str) -> str:
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n"


pairs = list(zip(PROBLEMS, TEXTS, strict=True))
FORMATS = {
    "ours": lines({"problem": p.id, "sample": 0, "text": t, "tokens": 5} for p, t in pairs),
    "reversed": lines({"id": p.id, "output": t} for p, t in reversed(pairs)),
    "by-prompt": lines({"prompt": p.prompt, "response": t} for p, t in reversed(pairs)),
    "by-number": lines({"completion": t} for t in TEXTS),
    "lm-eval": lines(
        {
            "doc_id": i,
            "doc": {"q": "?"},
            "target": "0",
            "arguments": {"arg_0": "?"},
            "resps": [[t]],
            "filtered_resps": [t],
        }
        for i, t in enumerate(TEXTS)
    ),
    "lm-eval-chat": lines(
        {"doc_id": 9 - i, "arguments": {"gen_args_0": {"arg_0": chat(p.prompt)}}, "resps": [[t]]}
        for i, (p, t) in enumerate(pairs)
    ),
    "opencompass": json.dumps({str(i): {"origin_prompt": "?", "prediction": t} for i, t in enumerate(TEXTS)}),
    "opencompass-chat": json.dumps(
        {
            str(7 - i): {"origin_prompt": [{"role": "HUMAN", "prompt": p.prompt}], "prediction": t}
            for i, (p, t) in enumerate(pairs)
        }
    ),
    "json": json.dumps([{"key": p.id, "generation": t} for p, t in pairs]),
}


@pytest.mark.parametrize("content", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_scores(content: str, capsys) -> None:
    Path("f").write_text(content)
    assert cli.main(["grade", "f", "--benchmark", "sums", "--out", "out"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "f: 5 responses to 5 of 5 problems"
    assert second.startswith("  Sums: Mean@1 60.0 (")
    assert "Think #R 80.0, Token #N " in second
    assert ("Token #N 5," if '"tokens"' in content else "Token #N unknown,") in second
    assert [p.correct for p in load_scores("out", "sums").problems] == [1, 0, 1, 1, 0]


def test_several_responses_to_a_problem_are_samples() -> None:
    Path("f").write_text(lines({"id": p.id, "responses": [t, t, "It is 99"]} for p, t in pairs[:2]))
    found = elsewhere.read("f", PROBLEMS)
    assert [(r.problem, r.sample) for r in found] == [
        ("sum-0", 0),
        ("sum-0", 1),
        ("sum-0", 2),
        ("sum-1", 0),
        ("sum-1", 1),
        ("sum-1", 2),
    ]
    assert cli.main(["grade", "f", "--benchmark", "sums", "--out", "out", "-q"]) == 0
    assert [(p.n, p.correct) for p in load_scores("out", "sums").problems] == [(3, 2), (3, 0)]


def test_the_role_decides_what_is_graded(capsys) -> None:
    Path("f").write_text(lines({"id": "sum-1", "text": "<think>It is 3</think>"} for _ in range(1)))
    for role, answer in (("instruct", '"3</think>"'), ("merged", "null")):
        assert cli.main(["grade", "f", "--benchmark", "sums", "--role", role, "--out", role, "-q"]) == 0
        assert f'"answer": {answer}' in Path(role, "sums.verdicts.jsonl").read_text()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no responses"),
        ("[1]", "row 1 is not a JSON object"),
        ('{"id": "sum-1", "text": "x"}\nnonsense', "line 2 is not JSON"),
        (lines([{"id": "other", "text": "x"}]), "row 1 belongs to no problem"),
        (lines([{"text": "x"}] * 6), "row 6 belongs to no problem"),
        (lines([{"id": "sum-1", "words": "x"}]), "row 1 has no response"),
        (lines([{"id": f"sum-{i}", "text": "x"} for i in (1, 2, 1)]), "the problems have 1 to 2 responses"),
    ],
)
def test_files_that_cannot_be_graded_are_refused_in_two_lines(content: str, problem: str, capsys) -> None:
    Path("f").write_text(content)
    assert cli.main(["grade", "f", "--benchmark", "sums"]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert len(error.splitlines()) == 2
