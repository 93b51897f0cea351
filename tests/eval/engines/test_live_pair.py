"""A merge that vLLM holds without a folder answers as the merged folder does: the same text for every request."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pebble")  # grading's, of the extra `eval`

from eval import engines
from eval.engines import Options
from eval.engines.live_pair import LivePair, NotLiveError
from eval.run import driver
from eval.run.files import load_run
from eval.run.settings import Choices
from eval.schema import Problem, Verdict
from mi_kernels import Recipe, Rule, lerp_checkpoint

from ..support import random_model
from ..support.fakes import grade_here, sums

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="needs vllm")


@pytest.fixture(autouse=True)
def quick_grading(monkeypatch):
    monkeypatch.setattr("eval.run.grading.grade", grade_here)


RECIPES = {
    "plain": Recipe(0.3),
    "masked": Recipe(0.75, layers="1:", modules="ffn"),
    "rules": Recipe(0.5, rules=[Rule(1, modules="attn"), Rule(0, layers="0")]),
}


def grade(reference, text):
    return Verdict(len(text) % 2 == 0, None)


def benchmark():
    # A prompt of several KV blocks, and a prefix that all prompts share: keys of another merge must not be used again.
    problems = [Problem(str(i), f"{'The same words before each question. ' * 5}{i}?", 0) for i in range(12)]
    return sums(load=lambda path: problems, max_tokens=60, grade=grade)


def lines(out: Path) -> list[str]:
    return sorted((out / "sums.jsonl").read_text().splitlines())


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request, tmp_path_factory) -> tuple[str, str]:
    """Two random models with different chat templates and different generation configs, apart from the end tokens."""
    root = tmp_path_factory.mktemp("tied" if request.param else "untied")
    instruct = random_model.make(root / "rnd-instruct", seed=1, tied=request.param)
    thinking = random_model.make(root / "rnd-thinking", seed=2, tied=request.param)
    path = Path(instruct, "chat_template.jinja")
    path.write_text(path.read_text().replace("<think>\n", ""))
    assert path.read_text() != Path(thinking, "chat_template.jinja").read_text()
    return instruct, thinking


def test_a_live_merge_answers_as_its_folder_does(pair, tmp_path):
    count = 2 if Path(pair[0]).parent.name.startswith("tied") else 1
    instruct, thinking = pair
    chosen = {"instruct": LivePair(*pair, Recipe(0.0), "instruct")}
    chosen |= {name: LivePair(*pair, recipe) for name, recipe in RECIPES.items()}
    chosen |= {"thinking": LivePair(*pair, Recipe(1.0)), "again": LivePair(*pair, RECIPES["plain"])}
    starts = set()
    with engines.create(Options(max_num_seqs=16, engines=count)) as engine:
        for name, live in chosen.items():
            driver.run(live, [benchmark()], str(tmp_path / f"live-{name}"), engine, Choices(samples=2), progress=False)
            starts.add(tuple(worker._process.pid for worker in engine._workers))
    assert len(starts) == 1
    assert "live" in load_run(str(tmp_path / "live-instruct")).engine["settings"], "the first is a pair already"
    folders = {"instruct": instruct, "thinking": thinking}
    for name, recipe in RECIPES.items():
        folders[name] = str(tmp_path / name)
        lerp_checkpoint(instruct, thinking, folders[name], recipe, progress=False)
    with engines.create(Options(max_num_seqs=16)) as engine:
        for name, folder in folders.items():
            driver.run(folder, [benchmark()], str(tmp_path / f"dir-{name}"), engine, Choices(samples=2), progress=False)
            assert lines(tmp_path / f"live-{name}") == lines(tmp_path / f"dir-{name}"), name
            live, told = load_run(str(tmp_path / f"live-{name}")), load_run(str(tmp_path / f"dir-{name}"))
            assert (live.role, live.merge) == (told.role, told.merge)
            assert name not in RECIPES or live.lam == told.lam
            assert live.settings == told.settings
    assert lines(tmp_path / "live-again") == lines(tmp_path / "live-plain")
    assert len({tuple(lines(tmp_path / f"live-{name}")) for name in folders}) == len(folders), "each is another model"
    # A run that began with a folder goes on live, and the other way round.
    with engines.create(Options(max_num_seqs=16)) as engine:
        driver.run(chosen["plain"], [benchmark()], str(tmp_path / "dir-plain"), engine, Choices(samples=2))
        driver.run(folders["plain"], [benchmark()], str(tmp_path / "live-plain"), engine, Choices(samples=2))


def test_an_end_that_ends_its_responses_otherwise_gets_an_engine_of_its_own(pair, tmp_path):
    other = tmp_path / "other-instruct"
    shutil.copytree(pair[0], other)
    path = other / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [7, 256]}))
    live = LivePair(str(other), pair[1], Recipe(0.0), "instruct")
    with engines.create(Options(max_num_seqs=16)) as engine:
        driver.run(LivePair(str(other), pair[1], Recipe(0.3)), [benchmark()], str(tmp_path / "merge"), engine)
        for name, model in {"live": live, "folder": str(other)}.items():
            driver.run(model, [benchmark()], str(tmp_path / name), engine, Choices(samples=2), progress=False)
    assert lines(tmp_path / "live") == lines(tmp_path / "folder")


def test_a_pair_that_no_engine_can_hold_is_refused_before_anything_is_generated(pair, tmp_path):
    quantised = tmp_path / "fp8-instruct"
    shutil.copytree(pair[0], quantised)
    path = quantised / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "fp8"}}))
    with engines.create(Options()) as engine:
        with pytest.raises(NotLiveError, match="quantization is fp8"):
            driver.run(LivePair(str(quantised), pair[1], Recipe(0.5)), [benchmark()], str(tmp_path / "out"), engine)
        assert not engine._workers
    with engines.create(Options(extra={"max_logprobs": 3})) as engine, pytest.raises(NotLiveError, match="arguments"):
        driver.run(LivePair(*pair, Recipe(0.5)), [benchmark()], str(tmp_path / "out"), engine)
