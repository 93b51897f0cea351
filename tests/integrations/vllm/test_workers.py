"""Engines of several workers: all of them agree on a recipe, and change together or not at all. Without vLLM."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_kernels.errors import ArgumentError
from mi_kernels.integrations.vllm import set_lam, set_lam_async
from mi_kernels.integrations.vllm.client import EngineError, FilesChangedError
from mi_kernels.integrations.vllm.copies import Copies, copied
from mi_kernels.integrations.vllm.live import Live, synchronize
from mi_kernels.integrations.vllm.options import LoaderOptions
from mi_kernels.integrations.vllm.worker import LiveWorker
from mi_kernels.live.resident import Resident

from ...support import models
from ...support.fused_model import FusedModel

LAYERS = 4
Tensors = dict[str, torch.Tensor]


class Worker(LiveWorker):
    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def get_model(self) -> torch.nn.Module:
        return self.model


class Engine:
    """vLLM's `LLM` as far as `set_lam` uses it, and `AsyncLLM` by its subclass."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers, self.calls = workers, []
        self.paused = False

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        self.calls.append(method)
        return [getattr(worker, method)(*args) for worker in self.workers]

    def reset_prefix_cache(self) -> None:
        self.calls.append("reset")

    def tensors(self) -> Tensors:
        """The parameters of all workers."""
        return {name: p.data.clone() for worker in self.workers for name, p in worker.model.named_parameters()}


class AsyncEngine(Engine):
    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:  # type: ignore[override]
        await asyncio.sleep(0)
        return Engine.collective_rpc(self, method, args)

    async def reset_prefix_cache(self) -> None:  # type: ignore[override]
        self.calls.append("reset")

    async def pause_generation(self, mode: str, clear_cache: bool) -> None:
        self.paused = True

    async def resume_generation(self) -> None:
        self.paused = False


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes engines whose workers each hold some layers of one pair. Copies of both models, as on a GPU."""
    tensors = [
        {name: torch.randn(t.shape, generator=torch.Generator().manual_seed(i)).to(t.dtype) for name, t in made.items()}
        for i, made in ((seed, models.tiny(seed, layers=LAYERS)) for seed in range(2))
    ]
    pair = [models.save(tmp_path / str(seed), made) for seed, made in enumerate(tensors)]
    shapes = {name: tuple(t.shape) for name, t in tensors[0].items()}
    monkeypatch.setattr(Live, "reload", lambda self, weights: self._model.load_weights(weights))

    def made(stages: int, kind: type[Engine] = Engine, **config: Any) -> Engine:
        workers = []
        for stage in range(stages):
            options = LoaderOptions.read({"other": str(pair[1]), "lam": 0.8, "live": True, **config})
            model = FusedModel(shapes, stage, stages)
            resident = Resident(pair)
            model.load_weights(resident.lerp(options.recipe))
            model.mi_kernels_live = Live(resident, options, model, None)
            model.mi_kernels_live.take_copies("device")
            workers.append(Worker(model))
        return kind(workers)

    return made


RECIPES = [
    {"lam": 0.3},
    {"lam": 0.3, "layers": "0:1"},
    {"lam": 0.3, "layers": "-1:"},
    {"lam": 0.3, "layers": "-3:3"},
    {"lam": 0.3, "layers": "1/2:"},
    {"lam": 0.3, "layers": "1/3:2/3"},
    {"lam": 0.3, "layers": [-1, 0]},
    {"lam": 0.3, "modules": "embed"},
    {"lam": 0.3, "modules": "head,norm"},
    {"lam": [0.1, 0.9]},
    {"lam": [0.1, 0.9], "modules": "attn"},
    {"lam": [0.0, 0.4, 1.0], "layers": "1:"},
    {"lam": 0, "rules": [{"lam": [0.2, 0.8], "layers": "1/4:3/4"}, {"lam": 1, "layers": "-1", "modules": "ffn"}]},
]


@pytest.mark.parametrize("wanted", RECIPES, ids=str)
@pytest.mark.parametrize("stages", [2, 4])
def test_layers_on_several_workers_get_the_weights_of_one(
    engine_of: Callable[..., Any], stages: int, wanted: dict[str, Any]
) -> None:
    whole, split = engine_of(1), engine_of(stages)
    models.assert_same_tensors(split.tensors(), whole.tensors())
    before = split.tensors()
    said = [set_lam(engine, **wanted) for engine in (whole, split)]
    assert said[0]["lam"] == said[1]["lam"] == wanted["lam"]
    models.assert_same_tensors(split.tensors(), whole.tensors())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in split.tensors().items())


@pytest.mark.parametrize("wanted", [{"lam": 1.5}, {"lam": [-0.5, 1.5]}, {"lam": 0, "rules": [{"lam": 2, "layers": 1}]}])
def test_lam_outside_the_range_as_the_engine_was_started(engine_of: Callable[..., Any], wanted: dict[str, Any]) -> None:
    engine = engine_of(2)
    before = engine.tensors()
    with pytest.raises(ArgumentError) as caught:
        set_lam(engine, **wanted)
    assert "start the engine with extrapolate (`mi-kernels serve --extrapolate`)" in caught.value.remedy
    models.assert_same_tensors(engine.tensors(), before)

    engine = engine_of(2, extrapolate=True)
    assert set_lam(engine, **wanted)["lam"] == wanted["lam"]
    assert engine.workers[0].mi_kernels_get()["extrapolate"] is True
    single = engine_of(1, extrapolate=True)
    set_lam(single, **wanted)
    models.assert_same_tensors(engine.tensors(), single.tensors())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in engine.tensors().items())


def test_the_remedy_for_what_extrapolation_does_not_allow(engine_of: Callable[..., Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        set_lam(engine_of(1), 0.5, layers="9:")
    assert "extrapolate" not in caught.value.remedy


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"lam": 0.3, "layers": "5:"}, "beyond the 4 layers"),
        ({"lam": 0.3, "layers": "-5:"}, "beyond the 4 layers"),
        ({"lam": 0.3, "modules": "router"}, "no router"),
        ({"lam": 0.3, "layers": "0", "modules": "embed"}, "select no tensor"),
        ({"lam": 2}, "lam is 2"),
        ({"lam": 0.3, "rules": [{"lam": 1, "layers": "9"}]}, "rule 1: layers: this model has no layer 9"),
        ({"lam": 0.3, "rules": [{"lam": 1, "pattern": "q_proj"}]}, "pattern"),
    ],
)
def test_a_rejected_change_touches_no_worker(engine_of: Callable[..., Any], wanted: dict[str, Any], words: str) -> None:
    engine = engine_of(2)
    before = engine.tensors()
    with pytest.raises(ArgumentError, match=words):
        set_lam(engine, **wanted)
    assert engine.calls == ["mi_kernels_check"]
    models.assert_same_tensors(engine.tensors(), before)


def test_files_that_have_changed_are_noticed_before_the_weights_change(
    engine_of: Callable[..., Any], tmp_path: Path
) -> None:
    """Where a change reads the files, as on a CPU; copies of both models need no file."""
    reading, copies = engine_of(2), engine_of(2)
    for worker in reading.workers:
        worker.model.mi_kernels_live.copies = None
    before = reading.tensors()
    (tmp_path / "1" / "model.safetensors").unlink()
    with pytest.raises(FilesChangedError, match=r"model\.safetensors: is no longer readable.*\n.*Restart the engine"):
        set_lam(reading, 0.3)
    assert reading.calls == ["mi_kernels_check"]
    models.assert_same_tensors(reading.tensors(), before)
    assert set_lam(copies, 0.3)["lam"] == 0.3


def test_one_worker_that_rejects_keeps_the_others_from_changing(
    engine_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(2)
    before = engine.tensors()

    def check(recipe: Any) -> list[int]:
        raise ArgumentError("only this worker says no", "Ask again.")

    monkeypatch.setattr(engine.workers[1].model.mi_kernels_live, "check", check)
    with pytest.raises(ArgumentError, match="only this worker"):
        set_lam(engine, 0.3)
    models.assert_same_tensors(engine.tensors(), before)


def test_copies_in_host_memory_are_one_block() -> None:
    """Blocks of torch's pinned allocator would be rounded up to powers of two, each alone."""
    live = {"a": torch.randn(5, 3).bfloat16(), "b": torch.randn(7)}
    found = copied(live, "host")
    assert all(torch.equal(found[name], live[name]) for name in live)
    assert found["b"].data_ptr() - found["a"].data_ptr() == 64
    live["a"].zero_()
    assert found["a"].any()


def change_copies(live: Any, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Makes copies of other tensors, as if the worker had loaded other parameters."""
    old = live.copies
    tensors = [dict(held) for held in (old._live, old._sides._a, old._sides._b)]
    for held in tensors:
        change(held)
    live.copies = Copies(*tensors, old._whole)


def test_a_mask_that_selects_no_loaded_parameter_is_rejected(engine_of: Callable[..., Any]) -> None:
    """vLLM does not load everything that checkpoints have, such as a head that it ties to the embedding."""
    engine = engine_of(2)
    for worker in engine.workers:
        change_copies(worker.model.mi_kernels_live, lambda tensors: tensors.pop("lm_head.weight", None))
    with pytest.raises(ArgumentError, match="modules head select tensors of the checkpoints, but no parameter"):
        set_lam(engine, 0.3, modules="head")
    set_lam(engine, 0.3, modules="head,norm")


def test_masks_are_rejected_if_a_parameter_has_no_known_place(engine_of: Callable[..., Any]) -> None:
    engine = engine_of(2)
    live = engine.workers[1].model.mi_kernels_live

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["decoder_stack.3.w1"] = tensors.pop("model.layers.3.mlp.gate_up_proj.weight")

    change_copies(live, rename)
    for wanted in ({"layers": "0:2"}, {"modules": "ffn"}, {"lam": [0, 1]}, {"rules": [{"lam": 1, "layers": "0"}]}):
        with pytest.raises(ArgumentError, match=r"decoder_stack\.3\.w1: vLLM's names do not show"):
            set_lam(engine, **{"lam": 0.3, **wanted})
    assert set_lam(engine, 0.3)["lam"] == 0.3


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
def test_a_worker_that_fails_stops_all_and_each_is_reported(
    engine_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: type[Engine]
) -> None:
    engine = engine_of(2, kind)

    def fails(recipe: Any) -> None:
        raise OSError("the disk has gone")

    def change() -> None:
        if kind is AsyncEngine:
            asyncio.run(set_lam_async(engine, 0.3))
        else:
            set_lam(engine, 0.3)

    monkeypatch.setattr(engine.workers[1].model.mi_kernels_live, "change", fails)
    with pytest.raises(EngineError, match=r"worker 0: has changed; worker 1: .*the disk has gone"):
        change()
    assert engine.paused == (kind is AsyncEngine)
    assert "reset" not in engine.calls
    for worker in engine.workers:
        with pytest.raises(RuntimeError, match="the disk has gone"):
            worker.execute_model()
        assert "the disk has gone" in worker.mi_kernels_get()["broken"]
    with pytest.raises(EngineError, match="the disk has gone"):
        change()


def test_a_worker_that_does_not_answer_stops_the_others(
    engine_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(2)

    def dies(wanted: Any) -> None:
        raise RuntimeError("the process has ended")

    monkeypatch.setattr(engine.workers[1], "mi_kernels_set", dies)
    with pytest.raises(EngineError, match=r"not confirmed.*the process has ended"):
        set_lam(engine, 0.3)
    with pytest.raises(RuntimeError, match="not confirmed"):
        engine.workers[0].execute_model()


def test_cancelling_does_not_interrupt_a_change(engine_of: Callable[..., Any]) -> None:
    engine = engine_of(2, AsyncEngine)

    async def cancelled() -> None:
        task = asyncio.create_task(set_lam_async(engine, 0.3))
        while "mi_kernels_set" not in engine.calls:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(10):  # the change itself goes on
            await asyncio.sleep(0)

    asyncio.run(cancelled())
    assert engine.calls == ["mi_kernels_check", "mi_kernels_set", "reset"]
    assert not engine.paused


class TestSynchronising:
    """On a GPU work is queued. It must be done, or have failed, before a change is reported."""

    @pytest.fixture
    def queued(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Records the order of what happens. The model is on the meta device, which is no CPU."""
        calls: list[str] = []
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: calls.append(f"synchronize {device}"))
        return calls

    def worker(self, calls: list[str]) -> Worker:
        model = torch.nn.Linear(2, 2, device="meta")
        live = Live.__new__(Live)
        live._model, live.copies, live.broken, live.changeable = model, None, "", True
        live.extrapolate = False
        live._resident = type("Resident", (), {"lerp": lambda self, recipe: "weights"})()
        live.check = lambda recipe: [1]  # type: ignore[method-assign]
        live.reload = lambda weights: calls.append("queue")  # type: ignore[method-assign]
        model.mi_kernels_live = live
        return Worker(model)

    def test_the_time_ends_when_the_device_is_done(self, queued: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.perf_counter", lambda: queued.append("clock") or float(len(queued)))
        answer = self.worker(queued).mi_kernels_set({"lam": 0.3})
        assert queued == ["clock", "queue", "synchronize meta", "clock"]
        assert not math.isnan(answer["seconds"])

    def test_a_fault_of_a_kernel_stops_the_worker(self, queued: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def fault(device: Any) -> None:
            raise RuntimeError("an illegal memory access was encountered")

        monkeypatch.setattr(torch.accelerator, "synchronize", fault)
        worker = self.worker(queued)
        assert "illegal memory access" in worker.mi_kernels_set({"lam": 0.3})["broken"]
        with pytest.raises(RuntimeError, match="illegal memory access"):
            worker.execute_model()

    def test_a_cpu_has_nothing_to_wait_for(self, queued: list[str]) -> None:
        synchronize(torch.nn.Linear(2, 2))
        assert not queued
