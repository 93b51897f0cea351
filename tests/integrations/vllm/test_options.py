"""The options and the command line for vLLM, checked without vLLM."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mi_kernels.cli import main, serve
from mi_kernels.cli.program import _split, build_parser
from mi_kernels.errors import ArgumentError
from mi_kernels.integrations.vllm.client import EngineError, set_lam, set_lam_async
from mi_kernels.integrations.vllm.options import LoaderOptions
from mi_kernels.integrations.vllm.self_check import SelfCheck


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


def command(*argv: str) -> list[str]:
    own, others = _split(["serve", "a", "b", *argv])
    arguments = build_parser().parse_args(own)
    arguments.others = others
    return serve.command(arguments)


def after(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_serve_listens_on_this_machine_only_and_passes_vllm_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    argv = command("--lam", "0.5", "--modules", "ffn", "--", "--max-model-len", "100", "--api-key", "k")
    assert json.loads(after(argv, "--model-loader-extra-config")) == {
        "other": "b",
        "lam": 0.5,
        "modules": "ffn",
        "live": True,
        "resident": "device",
    }
    assert (after(argv, "--model"), after(argv, "--tokenizer"), after(argv, "--host")) == ("a", "b", "127.0.0.1")
    assert argv[-4:] == ["--max-model-len", "100", "--api-key", "k"]
    assert after(command("--lam", "0.5", "--copy-from", "instruct"), "--tokenizer") == "a"

    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(ArgumentError, match="without an API key"):
            command("--lam", "0.5", "--host", host)
        assert after(command("--lam", "0.5", "--host", host, "--", "--api-key", "k"), "--host") == host
    with pytest.raises(ArgumentError, match="lam is 3"):
        command("--lam", "3")


def test_serve_without_vllm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", "a", "b", "--lam", "0.5"]) == 2
    assert "vLLM is not installed" in capsys.readouterr().err


def test_serve_check_prints_what_was_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [SelfCheck("copies", 0.5, 1234, (), ("scratch",)), SelfCheck("copies", 0.5, 1200, ())]
    given: list[str] = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "vllm")
    monkeypatch.setattr("os.environ", {})  # the command sets variables for vLLM
    monkeypatch.setattr(
        "mi_kernels.integrations.vllm.check.check_engine", lambda argv: given.extend(argv) or list(found)
    )
    argv = ["serve", "a", "b", "--lam", "0.3", "--check", "--", "--max-model-len", "100"]
    assert main(argv) == 0
    assert json.loads(after(given, "--model-loader-extra-config"))["check"] is True
    assert (given[:2], given[-2:]) == (["--model", "a"], ["--max-model-len", "100"])
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "worker 0: compared 1,234 tensors, lam changed to 0.5 by copies",
        "  not compared: 1 tensor that two loads do not agree on (scratch)",
        "worker 1: compared 1,200 tensors, lam changed to 0.5 by copies",
        "OK: the same bits as the merge loaded afresh",
    ]
    assert not said.err

    found[1] = SelfCheck("copies", 0.5, 1200, ("model.layers.0.mixer.A",))
    assert main(argv) == 2
    said = capsys.readouterr()
    assert "OK" not in said.out
    problem, remedy = said.err.splitlines()
    assert "(model.layers.0.mixer.A) differ" in problem
    assert "Serve without live" in remedy


def test_other_plugins_of_vllm_are_still_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

    groups = {"vllm.general_plugins": [Entry("theirs"), Entry("mi_kernels")], "vllm.platform_plugins": [Entry("npu")]}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: groups.get(group, []))
    assert serve.environment({})["VLLM_PLUGINS"] == "theirs,mi_kernels,npu"
    assert serve.environment({"VLLM_PLUGINS": "one"})["VLLM_PLUGINS"] == "one,mi_kernels"


class Engine:
    """Records its calls in order, with the interfaces of LLM and AsyncLLM."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.calls = list(answers), []

    def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
        if method == "mi_kernels_check":
            self.calls.append("check")
            return [answer if "refused" in answer else {"selected": [1]} for answer in self.answers]
        self.calls.append("stop" if method == "mi_kernels_stop" else args[0]["lam"])
        return self.answers

    def reset_prefix_cache(self) -> None:
        self.calls.append("reset")


class AsyncEngine(Engine):
    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:  # type: ignore[override]
        return Engine.collective_rpc(self, method, args)

    async def reset_prefix_cache(self) -> None:  # type: ignore[override]
        self.calls.append("reset")

    async def pause_generation(self, mode: str, clear_cache: bool) -> None:
        self.calls.append(f"pause {mode}")

    async def resume_generation(self) -> None:
        self.calls.append("resume")


DONE = {"lam": 0.3, "seconds": 1.0}


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


class TestRoute:
    """The route over HTTP, with an engine that records."""

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("fastapi")
        pytest.importorskip("httpx")

    def client(self, engine: Engine, key: str | None = None, host: str = "127.0.0.1") -> Any:
        from argparse import Namespace

        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        from mi_kernels.integrations.vllm.endpoint import LamEndpoint

        app, endpoint = FastAPI(), LamEndpoint()
        endpoint.attach_router(app)
        asyncio.run(endpoint.init_state(engine, app.state, Namespace(api_key=key)))
        return TestClient(app, client=(host, 1))

    def test_changes(self) -> None:
        engine = AsyncEngine(DONE)
        answer = self.client(engine).post("/v1/mi_kernels/lam", json={"lam": 0.3, "drain": False})
        assert (answer.status_code, answer.json()) == (200, DONE)
        assert engine.calls[0] == "pause abort"

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("x", "the key lam"),
            ('{"lamb": 1}', "the key lam"),
            ('{"lam": 1, "a": 2}', "unknown key 'a'"),
            ('{"lam": 1, "drain": 2}', "drain"),
        ],
    )
    def test_rejects_invalid_requests(self, body: str, words: str) -> None:
        engine = AsyncEngine(DONE)
        answer = self.client(engine).post("/v1/mi_kernels/lam", content=body)
        assert answer.status_code == 400
        assert words in answer.json()["error"]
        assert not engine.calls

    def test_a_broken_engine_is_unavailable(self) -> None:
        answer = self.client(AsyncEngine({"broken": "half set"})).post("/v1/mi_kernels/lam", json={"lam": 0.3})
        assert answer.status_code == 503

    @pytest.mark.parametrize(
        ("host", "key", "headers", "status"),
        [
            ("127.0.0.1", None, {}, 200),
            ("::1", None, {}, 200),
            ("10.0.0.7", None, {}, 403),
            ("127.0.0.1", None, {"origin": "http://127.0.0.1"}, 403),
            ("10.0.0.7", "secret", {}, 200),  # vLLM's own middleware has asked for the key
        ],
    )
    def test_clients_without_permission(self, host: str, key: str | None, headers: dict[str, str], status: int) -> None:
        client = self.client(AsyncEngine(DONE), key, host)
        assert client.post("/v1/mi_kernels/lam", json={"lam": 0.3}, headers=headers).status_code == status
