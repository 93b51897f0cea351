"""Engine processes with a backend that answers at once, breaks in every way, or is killed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from eval.engines import Options, Request, create
from eval.engines import processes as module
from eval.engines.installed import environments, gpu_groups
from eval.engines.processes import Processes, cpu_cache_bytes
from eval.errors import EngineError, EvalError
from eval.schema import Sampling

from ..support.fakes import completion, model

SAMPLING = Sampling(0.6, 0.95, 20, 100)


def requests(count: int, **words: str) -> list[Request]:
    """`count` requests; words={"_3": "KILL"} puts the word into the third."""
    return [Request(i, f"What is {i} + {i}? {words.get(f'_{i}', '')}", 100 + i, SAMPLING) for i in range(count)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    return model(tmp_path / "model", num_hidden_layers=2, num_attention_heads=2, hidden_size=64)


def processes(**options) -> Processes:
    return Processes(Options(kind="transformers", **options), backend="tests.eval.support.fakes:FakeBackend")


@pytest.mark.parametrize("engines", [1, 3])
def test_every_request_is_answered_once_by_processes_that_open_one_model_after_the_other(folder, tmp_path, engines):
    with processes(engines=engines) as engine:
        for count in (10, 2, 0):
            opened = engine.open(folder, 128)
            assert opened["settings"] == {"engines": engines}
            wanted = requests(count)
            assert sorted(engine.generate(wanted), key=lambda c: c.index) == [completion(r) for r in wanted]
    assert not list(tmp_path.glob("*.log")), "the log of an engine that never failed is removed"


@pytest.mark.parametrize(
    ("word", "problem", "remedy"),
    [
        ("OOM", "the engine ran out of memory: RuntimeError: CUDA out of memory. Tried", "Lower --max-num-seqs"),
        ("CACHE", "the engine ran out of memory: ValueError: No available memory", "--gpu-memory-utilization"),
        ("LOST", "the engine ran out of memory: (EngineCore pid=7) torch.OutOfMemoryError", "Lower --max-num-seqs"),
        ("KILL", "an engine process died: killed (SIGKILL), probably", "Lower --max-num-seqs"),
        ("EXIT", "an engine process died (exit status 7): last words of a library", "Its log: "),
        ("REFUSE", "the model has no chat template", "The engine's log: "),
        ("BUG", "the engine failed: KeyError: 'oops'", "Its log: "),
    ],
)
def test_a_broken_engine_is_told_in_two_lines_after_all_that_it_finished(folder, tmp_path, word, problem, remedy):
    wanted = requests(6, _4=word)
    done = []
    with processes() as engine:
        engine.open(folder, 128)
        with pytest.raises(EngineError) as caught:
            done.extend(engine.generate(wanted))
    assert done == [completion(r) for r in wanted[:4]]
    assert caught.value.problem.startswith(problem)
    assert remedy in caught.value.remedy
    log = next(tmp_path.glob("*.log"))
    assert str(log) in caught.value.remedy
    assert "said to stdout by an engine" in log.read_text()


@pytest.mark.parametrize("word", ["KILL", "EXIT", "BUG"])
def test_the_death_of_one_engine_costs_nothing_while_another_lives(folder, tmp_path, caplog, monkeypatch, word):
    monkeypatch.setenv("MI_FAKE_ONCE", str(tmp_path / "once"))  # the second engine survives the request
    wanted = requests(40, _4=word)
    with processes(engines=2) as engine:
        engine.open(folder, 128)
        done = sorted(engine.generate(wanted), key=lambda c: c.index)
        assert done == [completion(r) for r in wanted]
        assert "the other engines generate its responses" in caplog.text
        assert len(engine._workers) == 1
        engine.open(folder, 128)
        assert len(engine._workers) == 2
        assert sorted(engine.generate(requests(3)), key=lambda c: c.index) == [completion(r) for r in requests(3)]


def test_a_request_that_kills_every_engine_costs_only_itself(folder):
    wanted = requests(40, _4="KILL")
    done = []
    with processes(engines=3) as engine:
        engine.open(folder, 128)
        with pytest.raises(EngineError, match="died"):
            done.extend(engine.generate(wanted))
    assert len(done) >= 15, "what the others had finished is kept"
    assert len({c.index for c in done}) == len(done)


def test_a_fast_engine_does_more_than_a_slow_one(folder, tmp_path):
    options = Options(kind="transformers", engines=2)
    with Processes(options, backend="tests.eval.support.fakes:UnevenBackend") as engine:
        engine.open(folder, 128)
        done = list(engine.generate(requests(60)))
    assert sorted(c.index for c in done) == list(range(60))
    by = [c.text for c in done]
    # The slow engine takes 50 ms for each of its first 15; a fixed half would be 30.
    assert by.count("slow") < 30


def test_the_log_of_an_engine_is_named_while_it_starts(folder, caplog):
    caplog.set_level("INFO")
    with processes() as engine:
        engine.open(folder, 128)
        assert f"starting transformers with model; log: {engine._workers[0].log}" in caplog.text


def test_an_engine_that_stops_in_the_middle_leaves_no_process(folder):
    with processes(engines=2) as engine:
        engine.open(folder, 128)
        pids = [worker._process.pid for worker in engine._workers]
        next(engine.generate(requests(50)))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("engines", [1, 3])
def test_an_engine_that_is_told_to_stop_drops_the_rest_and_generates_again(folder, engines):
    wanted = requests(500)
    options = Options(kind="transformers", engines=engines)
    with Processes(options, backend="tests.eval.support.fakes:SlowBackend") as engine:
        engine.open(folder, 128)
        pids = [worker._process.pid for worker in engine._workers]
        done = []
        for answer in engine.generate(wanted, lambda: len(done) >= 5):
            done.append(answer)
        assert 5 <= len(done) < 100
        assert all(answer == completion(wanted[answer.index]) for answer in done)
        left = [request for request in wanted[:30] if request.index not in {answer.index for answer in done}]
        again = list(engine.generate(left))
        assert sorted(again, key=lambda c: c.index) == [completion(request) for request in left]
        assert [worker._process.pid for worker in engine._workers] == pids


def test_an_engine_is_told_to_stop_while_nothing_is_finished(folder):
    calls = []
    with Processes(Options(kind="transformers"), backend="tests.eval.support.fakes:EndlessBackend") as engine:
        engine.open(folder, 128)
        assert list(engine.generate(requests(3), lambda: calls.append(1) or len(calls) == 3)) == []


def test_an_engine_that_dies_after_the_stop_is_no_error(folder, monkeypatch):
    wanted = requests(6, _2="KILL")
    with processes() as engine:
        engine.open(folder, 128)
        done = list(engine.generate(wanted, lambda: True))
    assert [answer.index for answer in done] in ([], [0], [0, 1])


def test_an_engine_process_ends_with_its_parent(folder):
    engine = processes()
    engine.open(folder, 128)
    process = engine._workers[0]._process
    process.stdin.close()  # what the system does when the parent dies, however it dies
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() == 0
    engine._workers[0].stop()


@pytest.mark.parametrize(
    ("visible", "engines", "parallel", "groups"),
    [
        ("0,1,2,3", 2, 2, ["0,1", "2,3"]),
        ("4,7", 2, 1, ["4", "7"]),
        ("0,1,2,3", 1, 2, ["0,1"]),
        ("0", 1, 1, [None]),
        ("GPU-1a,GPU-2b", 1, 2, [None]),
    ],
)
def test_each_engine_gets_its_own_gpus(monkeypatch, visible, engines, parallel, groups):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_groups(engines, parallel) == groups


def test_too_few_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(EngineError, match="2 engines of 2 GPUs need 4 GPUs; 2 are visible"):
        gpu_groups(2, 2)


def test_cores_are_shared_but_a_tiny_model_gets_one(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for weights, engines, asked, threads in [(1 << 30, 2, None, "4"), (1 << 20, 2, None, "1"), (1 << 20, 1, 3, "3")]:
        found = environments(Options(engines=engines, threads=asked), on_cpu=True, weights=weights)
        assert [e["OMP_NUM_THREADS"] for e in found] == [threads] * engines


def test_the_cpu_cache_holds_one_whole_response_at_least():
    assert cpu_cache_bytes(1 << 40, 64, 1) > 1 << 40
    assert cpu_cache_bytes(1, 1, 1) == 1 << 28


def test_an_engine_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(EvalError, match="unknown engine 'vlm'"):
        create(Options(kind="vlm"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EvalError, match="vllm is not installed"):
        create(Options())
