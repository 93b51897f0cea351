"""The options of the load format, and changes of lam, checked without vLLM."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mi_kernels.errors import ArgumentError
from mi_kernels.integrations.vllm.client import EngineError, NotLiveError, set_lam, set_lam_async
from mi_kernels.integrations.vllm.options import LoaderOptions
from mi_kernels.integrations.vllm.preflight import options_of

from ...support.engines import DONE, AsyncEngine, Engine


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "other is missing"),
        ({"other": "b"}, "lam is missing"),
        ({"other": 3, "lam": 0.5}, "other is missing"),
        ({"other": "b", "lam": 2}, "lam is 2"),
        ({"other": "b", "lam": 0.5, "layer": "1:"}, "Did you mean layers"),
        ({"other": "b", "lam": 0.5, "resident": "disk"}, "resident is 'disk'"),
        ({"recipe": "r.yml", "lam": 0.5}, "recipe and lam exclude each other"),
        ({"recipe": "r.yml", "live": True}, "live does not work with a recipe file"),
    ],
)
def test_refused_options(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        LoaderOptions.read(config)


def test_options() -> None:
    found = LoaderOptions.read({"other": "b", "lam": 0.5, "layers": "1:", "modules": None, "live": True})
    assert found.recipe is not None
    assert found.recipe.to_dict() == {"lam": 0.5, "layers": "1:"}
    assert (found.other, found.live, found.resident, found.check) == ("b", True, "device", False)
    assert LoaderOptions.read({"other": "b", "lam": 0.5, "check": True}).check


def test_options_that_are_not_a_dict() -> None:
    with pytest.raises(ArgumentError, match="model_loader_extra_config is 'b'"):
        options_of("b")


def test_seconds_are_the_slowest_workers_and_the_cache_is_reset() -> None:
    engine = Engine(DONE, {**DONE, "seconds": 2.0})
    assert set_lam(engine, 0.3) == {"lam": 0.3, "seconds": 2.0}
    assert engine.calls == ["check", 0.3, "reset"]


@pytest.mark.parametrize(("drain", "mode"), [(True, "pause wait"), (False, "pause abort")])
def test_requests_wait_while_weights_change(drain: bool, mode: str) -> None:
    engine = AsyncEngine(DONE)
    asyncio.run(set_lam_async(engine, 0.3, drain=drain))
    assert engine.calls == [mode, "check", 0.3, "reset", "resume"]


def test_a_rejected_change_resumes_requests() -> None:
    engine = AsyncEngine({"refused": ["lam is 3", "no"]})
    with pytest.raises(ArgumentError, match="lam is 3"):
        asyncio.run(set_lam_async(engine, 3))
    assert engine.calls == ["pause wait", "check", "resume"]


def test_a_broken_worker_leaves_the_engine_paused() -> None:
    engine = AsyncEngine(DONE, {"broken": "half set"})
    with pytest.raises(EngineError, match="half set"):
        asyncio.run(set_lam_async(engine, 0.3))
    assert engine.calls == ["pause wait", "check", 0.3, "stop"]


def test_an_engine_whose_lam_is_fixed() -> None:
    engine = Engine({"fixed": ["this engine cannot change lam", "no"]})
    with pytest.raises(NotLiveError, match="cannot change lam"):
        set_lam(engine, 0.3)
    assert engine.calls == ["check"]
