"""vLLM and transformers themselves, where they are installed, on a model of random weights."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pebble")  # grading's, of the extra `eval`

from eval import engines
from eval.engines import Options, Request
from eval.engines.transformers_engine import _draw
from eval.errors import EngineError
from eval.run import driver
from eval.run.files import load_responses, load_run
from eval.run.settings import Choices
from eval.schema import Problem, Sampling, Verdict

from ..support import random_model
from ..support.fakes import model, sums

RUN = """
import sys
sys.path.insert(0, ".")
from tests.eval.engines.test_engines_for_real import evaluate
if __name__ == "__main__":
    evaluate(*sys.argv[1:])
"""


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return random_model.make(tmp_path_factory.mktemp("model") / "random-thinking")


def evaluate(folder: str, out: str, kind: str, engine: engines.Engine | None = None) -> str:
    problems = [Problem(str(i), f"Question {i}: {{x}}?", 0) for i in range(30)]
    benchmark = sums(load=lambda path: problems, max_tokens=120, grade=grade_length)
    if engine is not None:
        return driver.run(folder, [benchmark], out, engine, Choices(seed=7))
    with engines.create(Options(kind=kind, max_num_seqs=16)) as started:
        return evaluate(folder, out, kind, started)


def grade_length(reference, text):
    return Verdict(len(text) % 2 == 0, None)


def lines(out: str) -> list[str]:
    return sorted(Path(out, "sums.jsonl").read_text().splitlines())


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("vllm", marks=pytest.mark.skipif(not installed("vllm"), reason="needs vllm")),
        pytest.param("transformers", marks=pytest.mark.skipif(not installed("transformers"), reason="needs it")),
    ],
)
def test_two_runs_and_a_killed_one_give_the_same_files(folder, tmp_path, kind):
    first, second, out = (str(tmp_path / name) for name in ("first", "second", "killed"))
    command = [sys.executable, "-c", RUN, folder, out, kind]
    killed = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)})
    path = Path(out, "sums.jsonl")
    while killed.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 5):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finished = load_responses(out, "sums")
    assert 5 <= len(finished) < 120
    with engines.create(Options(kind=kind, max_num_seqs=16)) as engine:
        for target in (first, second, out):
            evaluate(folder, target, kind, engine)
    responses = load_responses(first, "sums")
    resumed = {(r.problem, r.sample): r for r in load_responses(out, "sums")}
    assert set(resumed) == {(r.problem, r.sample) for r in responses}
    assert all(resumed[r.problem, r.sample] == r for r in finished)
    # What transformers computes depends on what shares a batch, and after a kill that is something else.
    same = (first, second, out) if kind == "vllm" else (first, second)
    assert all(lines(target) == lines(first) for target in same)
    for name in ("sums.scores.json", "sums.verdicts.jsonl"):
        assert len({Path(target, name).read_bytes() for target in same}) == 1
    assert len({r.text for r in responses}) > 100, "every response has a seed of its own"
    assert {r.finish_reason for r in responses} == {"stop", "length"}
    assert all(r.tokens == 120 for r in responses if r.finish_reason == "length")
    assert any("</think>" in r.text for r in responses)
    assert not any("<|im_end|>" in r.text for r in responses)
    assert load_run(first).engine["name"] == kind


@pytest.mark.skipif(not installed("vllm"), reason="needs vllm")
def test_vllm_refusals_are_told_in_a_line(folder, tmp_path):
    request = Request(0, "x" * 600, 0, Sampling(0.6, 0.95, 20, 10))
    with engines.create(Options()) as engine:
        engine.open(folder, 512)
        with pytest.raises(EngineError, match=r"a prompt has 6\d\d tokens, but the context of the model is 512"):
            list(engine.generate([request]))
        with pytest.raises(EngineError, match="the engine failed: "):
            engine.open(model(tmp_path / "empty"), 512)


def test_a_token_is_drawn_from_what_top_k_and_top_p_leave():
    import torch

    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04]))

    def drawn(temperature: float, top_p: float, top_k: int) -> set[int]:
        request = Request(0, "", 0, Sampling(temperature, top_p, top_k, 1))
        generator = torch.Generator().manual_seed(0)
        return {_draw(logits, request, generator) for _ in range(400)}

    assert drawn(1.0, 1.0, 0) == {0, 1, 2, 3, 4}
    assert drawn(1.0, 1.0, 3) == {0, 1, 2}
    assert drawn(1.0, 0.69, 0) == {0, 1}
    assert drawn(1.0, 0.71, 0) == {0, 1, 2}
    assert drawn(1.0, 0.43, 3) == {0}, "top_p is of what top_k leaves: 0.4 of 0.9 is 0.44"
    assert drawn(0.0, 1.0, 0) == {0}
    assert drawn(0.05, 1.0, 0) <= {0, 1}
