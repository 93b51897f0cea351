"""The demo end to end on the pair in the repository: merged, generated, graded, reported.

With vLLM where it is installed, else with transformers, which draws other samples from the same probabilities.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from eval.run.files import load_run, load_scores
from eval.run.settings import Choices
from eval.schema import Scores
from eval.tiny_pair import demo

KIND = next((name for name in ("vllm", "transformers") if importlib.util.find_spec(name)), None)
LAMS = (0.0, 0.3, 0.7, 0.8, 1.0)

pytestmark = pytest.mark.skipif(KIND is None, reason="needs vllm or transformers")
pytest.importorskip("pebble", reason="grading runs in pebble's processes")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    assert KIND is not None
    out = tmp_path_factory.mktemp("demo")
    return demo.run(str(out), KIND, LAMS, Choices(limit=32), progress=False)


@pytest.fixture(scope="module")
def scores(folders: list[str]) -> dict[float, Scores]:
    return {lam: load_scores(folder, "chains") for lam, folder in zip(LAMS, folders)}


def test_thinking_sets_in_between_03_and_07(scores: dict[float, Scores]) -> None:
    think = {lam: s.think.value for lam, s in scores.items()}
    assert max(think[0.0], think[0.3]) < 0.02
    assert think[0.7] > 0.85
    assert min(think[0.8], think[1.0]) > 0.98


def test_accuracy_rises_and_answers_grow(scores: dict[float, Scores]) -> None:
    means = [scores[lam].mean.value for lam in LAMS]
    assert means[0] < 0.55
    assert means[1] >= means[0] - 0.03  # both answer directly: their problems are the same, their samples are not
    assert means[2] > 0.9
    assert min(means[3:]) > 0.98
    tokens = [scores[lam].tokens.value for lam in LAMS]
    assert tokens == sorted(tokens)
    assert tokens[0] < 8
    assert tokens[2] > 40
    assert all(s.cut < 0.01 and s.unparsed < 0.01 for s in scores.values())


def test_runs_say_what_they_are_of(folders: list[str]) -> None:
    runs = [load_run(folder) for folder in folders]
    assert [run.role for run in runs] == ["instruct", "merged", "merged", "merged", "thinking"]
    assert [run.lam for run in runs] == list(LAMS)
    assert {run.engine["name"] for run in runs} == {KIND}
    assert runs[1].merge is not None
    assert runs[1].merge["lam"] == 0.3


def test_the_report_shows_every_run(folders: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from eval import report

    paths = report.write(os.path.dirname(folders[0]), str(tmp_path / "report"))
    assert all(os.path.getsize(path) > 0 for path in paths)
    assert [os.path.basename(path) for path in paths][:3] == ["index.html", "report.md", "report.json"]
    text = Path(paths[1]).read_text()
    assert all(load_run(folder).name in text for folder in folders)
    json.loads(Path(paths[2]).read_text())
