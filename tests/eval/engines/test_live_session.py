"""Engine processes that hold a pair: which changes they make in place, and what happens when one of them fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from eval.engines import Options, Request
from eval.engines import processes as module
from eval.engines.live_pair import LivePair, NotLiveError
from eval.engines.merged_files import files_of, merged_files, serves
from eval.engines.processes import Processes
from eval.errors import EngineError
from eval.schema import Sampling
from mi_kernels import Recipe, lerp_checkpoint
from mi_kernels.errors import ArgumentError

from ..support.fakes import mergeable

TOKENIZER = {"tokenizer.json": '{"model": {}}', "tokenizer_config.json": '{"eos_token": "x", "chat_template": "a"}'}
GENERATION = '{"eos_token_id": [1, 2], "temperature": 0.6}'


def requests(count: int = 6, word: str = "") -> list[Request]:
    sampling = Sampling(0.6, 0.95, 20, 100)
    return [Request(i, f"What is {i} + {i}? {word if i == 2 else ''}", i, sampling) for i in range(count)]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch) -> tuple[str, str]:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(module, "vllm_on_cpu", lambda: True)
    return model(tmp_path / "instruct"), model(tmp_path / "thinking", chat_template="b")


def model(folder: Path, generation: str = GENERATION, **tokenizer: str) -> str:
    mergeable(folder)
    (folder / "generation_config.json").write_text(generation)
    for name, content in TOKENIZER.items():
        (folder / name).write_text(content)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **tokenizer}))
    return str(folder)


def processes(**options) -> Processes:
    return Processes(Options(**options), backend="tests.eval.support.fakes:PairBackend")


def at(pair: tuple[str, str], lam: float, **changes) -> LivePair:
    return LivePair(*pair, Recipe(lam, **changes), "instruct" if lam == 0 else "thinking")


def held(engine: Processes, word: str = "") -> list[list[str]]:
    """The weights, the process and the number of opened models behind each response."""
    return [completion.text.split() for completion in engine.generate(requests(word=word))]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_all_points_of_a_sweep_have_one_start(pair, monkeypatch, tmp_path, count, on_cpu):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(module, "vllm_on_cpu", lambda: on_cpu)
    seen = []
    with processes(engines=count) as engine:
        for lam in (0.0, 0.25, 1.0, 0.5, 0.25):
            assert engine.open(at(pair, lam), 128)["settings"] == {"length": 128, "engines": count}
            responses = held(engine)
            assert {r[0] for r in responses} == {str(lam)}
            seen += responses
        engine.open(at(pair, 0.5, layers="1:", modules="ffn"), 100)
        seen += held(engine)
    assert len({r[1] for r in seen}) <= count
    assert {r[2] for r in seen} == {"1"}
    assert not list((tmp_path / "temporary").iterdir()), "its folders and logs are removed"


def test_a_longer_context_starts_again_and_is_kept(pair):
    with processes() as engine:
        lengths = [engine.open(at(pair, 0.5), length)["settings"]["length"] for length in (100, 300, 200)]
        assert lengths == [100, 300, 300]
        assert held(engine)[0][2] == "2"


def test_another_model_and_another_pair_end_the_first(pair, tmp_path):
    other = model(tmp_path / "other")
    with processes() as engine:
        for opened in (at(pair, 0.5), pair[0], at(pair, 0.25), at((other, pair[1]), 0.25)):
            engine.open(opened, 100)
        assert held(engine)[0][2] == "4"


@pytest.mark.parametrize("word", ["KILL", "BUG", "PAIR"])
def test_an_engine_that_fails_to_change_is_not_used(pair, monkeypatch, caplog, word):
    monkeypatch.setenv("MI_FAKE_SET", f"1={word}")
    with processes(engines=2) as engine:
        engine.open(at(pair, 0.25), 100)
        pids = [worker._process.pid for worker in engine._workers]
        assert engine.open(at(pair, 0.5), 100)["settings"]["engines"] == 1
        assert "the other engines generate its responses" in caplog.text
        responses = held(engine)
        assert {(r[0], r[1]) for r in responses} == {("0.5", str(pids[0]))}
        with pytest.raises(ProcessLookupError):
            os.kill(pids[1], 0)
        monkeypatch.delenv("MI_FAKE_SET")
        assert engine.open(at(pair, 0.75), 100)["settings"]["engines"] == 2, "both start again"
        assert {r[0] for r in held(engine)} == {"0.75"}


def test_without_any_engine_the_change_is_an_error_and_the_next_one_starts_again(pair, monkeypatch):
    monkeypatch.setenv("MI_FAKE_SET", "0=KILL")
    with processes() as engine:
        engine.open(at(pair, 0.25), 100)
        with pytest.raises(EngineError, match="died"):
            engine.open(at(pair, 0.5), 100)
        engine.open(at(pair, 0.5), 100)
        assert {r[0] for r in held(engine)} == {"0.5"}


def test_a_recipe_that_the_engine_refuses_leaves_it_as_it_was(pair, monkeypatch):
    monkeypatch.setenv("MI_FAKE_SET", "0=PAIR")
    with processes() as engine:
        engine.open(at(pair, 0.25), 100)
        with pytest.raises(NotLiveError, match="3 of 9 tensors differ"):
            engine.open(at(pair, 0.5), 100)
        assert {r[0] for r in held(engine)} == {"0.25"}


@pytest.mark.parametrize(("word", "problem"), [("PAIR", "3 of 9 tensors differ"), ("KILL", "died"), ("OOM", "memory")])
def test_an_engine_that_cannot_hold_the_pair_says_so_and_can_open_a_folder(pair, monkeypatch, word, problem):
    monkeypatch.setenv("MI_FAKE_OPEN", word)
    with processes() as engine:
        with pytest.raises(NotLiveError, match=problem):
            engine.open(at(pair, 0.5), 100)
        engine.open(pair[1], 100)
        assert {r[0] for r in held(engine)} == {"thinking"}


def test_two_models_that_do_not_fit_on_a_gpu_beside_the_merge_are_kept_in_host_memory(pair, monkeypatch, caplog):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(module, "vllm_on_cpu", lambda: False)
    monkeypatch.setenv("MI_FAKE_OPEN", "OOM-DEVICE")
    with processes() as engine:
        engine.open(at(pair, 0.5), 100)
        assert "trying again with the two models in host memory" in caplog.text
        assert {r[0] for r in held(engine)} == {"0.5"}


@pytest.mark.parametrize("word", ["KILL", "EXIT"])
def test_an_engine_that_dies_while_it_generates_costs_nothing(pair, tmp_path, monkeypatch, word):
    monkeypatch.setenv("MI_FAKE_ONCE", str(tmp_path / "once"))
    with processes(engines=2) as engine:
        engine.open(at(pair, 0.25), 100)
        engine.open(at(pair, 0.5), 100)
        responses = held(engine, word)
        assert [r[0] for r in responses] == ["0.5"] * 6
        engine.open(at(pair, 0.75), 100)
        assert len(engine._workers) == 2
        assert {r[0] for r in held(engine)} == {"0.75"}


def test_responses_that_nobody_waited_for_do_not_reach_the_next_merge(pair):
    with processes() as engine:
        engine.open(at(pair, 0.25), 100)
        stopped = engine.generate(requests(50))
        next(stopped)
        stopped.close()
        engine.open(at(pair, 0.5), 100)
        assert {r[0] for r in held(engine)} == {"0.5"}


def test_other_engines_refuse_pairs(pair):
    for options, words in (({"kind": "transformers"}, "transformers"), ({"extra": {"seed": 1}}, "further arguments")):
        with processes(**options) as engine, pytest.raises(NotLiveError, match=words):
            engine.open(at(pair, 0.5), 100)


def test_a_mask_that_selects_nothing_is_refused_as_a_merge_refuses_it(pair):
    with processes() as engine, pytest.raises(ArgumentError, match="layers"):
        engine.open(at(pair, 0.5, layers="7:"), 100)


@pytest.mark.parametrize("side", ["instruct", "thinking"])
def test_the_small_files_and_the_record_are_those_of_a_merged_folder(pair, tmp_path, side):
    recipe, out = Recipe(0.5, layers="1:"), str(tmp_path / "merged")
    lerp_checkpoint(*pair, out, recipe, copy_from=side, progress=False)
    found = merged_files(LivePair(*pair, recipe, side))
    assert found.record == json.loads(Path(out, "mi_kernels.json").read_text())
    assert found.files == files_of(out)
    assert set(found.files) == {"config.json", "generation_config.json", *TOKENIZER}
    assert found.ends == {"instruct", "thinking"}
    assert not list((tmp_path / "temporary").iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("name", "content", "same"),
    [
        ("tokenizer_config.json", '{"eos_token": "x", "chat_template": "other"}', True),
        ("tokenizer_config.json", '{"eos_token": "y", "chat_template": "a"}', False),
        ("tokenizer.json", '{"model": {"a": 1}}', False),
        ("chat_template.jinja", "other", True),
        ("generation_config.json", '{"eos_token_id": [1, 2], "temperature": 0.7}', True),
        ("generation_config.json", '{"eos_token_id": 1}', False),
        ("config.json", '{"rope_theta": 2}', False),
        ("config.json", '{"rope_theta": 1, "transformers_version": "5"}', True),
        ("special_tokens_map.json", "{}", False),
    ],
)
def test_one_engine_serves_two_models_only_if_they_differ_in_what_it_does_not_read(name, content, same):
    files = {"config.json": b'{"rope_theta": 1}', "generation_config.json": GENERATION.encode()}
    files |= {name: text.encode() for name, text in TOKENIZER.items()}
    assert serves(files, files)
    assert serves(files, {**files, name: content.encode()}) == same


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_model_that_ends_its_responses_otherwise_is_started_for_itself(pair, tmp_path, end):
    other = model(tmp_path / "other", generation='{"eos_token_id": 5}')
    mixed = (other, pair[1]) if end == 0 else (pair[0], other)
    with processes() as engine:
        engine.open(LivePair(*mixed, Recipe(0.5), "thinking" if end == 0 else "instruct"), 100)
        engine.open(at(mixed, end), 100)
        assert {r[2] for r in held(engine)} == {"2"}


def test_a_model_with_other_dtypes_than_the_merge_is_opened_as_it_is(pair, tmp_path):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    weights = load_file(Path(pair[1], "model.safetensors"))
    halves = {name: weight.astype(np.float16) for name, weight in weights.items()}
    save_file(halves, Path(pair[1], "model.safetensors"), {"format": "pt"})
    with processes() as engine:
        engine.open(at(pair, 0.0), 100)
        assert held(engine)[0][0] == "0.0", "INSTRUCT's dtypes are those of the merge"
        engine.open(at(pair, 1.0), 100)
        assert held(engine)[0][0] == "thinking", "the folder itself"
