"""Files that cannot be read: each is named and left out, and the report is about the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval import report
from eval.report import collect
from mi_kernels.errors import ArgumentError

from ..support import simulated_runs as runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs.sweep(tmp_path / "runs", ["aime25"], (0.5, 0.8))
    return tmp_path / "runs"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


RUNS = {
    "cut": lambda path: path.write_text(path.read_text()[:100]),
    "empty": lambda path: path.write_text(""),
    "list": lambda path: path.write_text("[1]"),
    "newer": lambda path: change(path, format=2),
    "unknown-field": lambda path: change(path, colour="red"),
    "unknown-role": lambda path: change(path, role="boss"),
    "no-settings": lambda path: change(path, settings=None),
    "not-utf-8": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("deed", RUNS.values(), ids=RUNS)
def test_a_run_that_cannot_be_read_is_named_and_left_out(folder: Path, deed) -> None:
    deed(folder / "MI-0.5" / "run.json")
    (family,), notes = collect.families(str(folder))
    assert [e.name for e in family.entries] == ["Instruct", "MI-0.8", "Thinking"]
    (note,) = notes
    assert note.startswith("MI-0.5/run.json: ")
    assert note.endswith(": the run is left out.")


def two(path: Path, **values: object) -> None:
    content = json.loads(path.read_text())
    content["problems"][3].update(values)
    path.write_text(json.dumps(content))


SCORES = {
    "cut": lambda path: path.write_text(path.read_text()[:1000]),
    "newer": lambda path: change(path, format=7),
    "no-number": lambda path: change(path, mean={"value": None, "low": None, "high": None}),
    "no-problems": lambda path: change(path, problems=[]),
    "no-count": lambda path: two(path, n=None),
    "other-count": lambda path: two(path, n=5),
}


@pytest.mark.parametrize("deed", SCORES.values(), ids=SCORES)
def test_scores_that_cannot_be_read_are_named_and_left_out(folder: Path, deed) -> None:
    deed(folder / "MI-0.5" / "aime25.scores.json")
    (family,), (note,) = collect.families(str(folder))
    assert [e.name for e in family.entries] == ["Instruct", "MI-0.8", "Thinking"]
    assert note.startswith("MI-0.5: MI-0.5/aime25.scores.json: ")
    assert note.endswith(": aime25 is left out.")


def test_the_report_names_what_is_missing(folder: Path) -> None:
    RUNS["newer"](folder / "MI-0.5" / "run.json")
    page = report.write(folder, folder / "report")[0]
    assert "MI-0.5/run.json: has the format 2" in Path(page).read_text()


def test_a_folder_without_a_readable_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "run.json").write_text("{")
    with pytest.raises(ArgumentError, match=r"no run with scores \(one/run\.json: cannot be read"):
        collect.families(str(tmp_path))


def test_runs_of_earlier_versions_have_no_format(folder: Path) -> None:
    before = collect.families(str(folder))
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        assert content.pop("format") == 1
        path.write_text(json.dumps(content))
    assert collect.families(str(folder)) == before
