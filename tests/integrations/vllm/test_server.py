"""`mi-kernels serve` with vLLM itself: its parser, a server that is changed and stopped, and early refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eval.engines.imports import hide_cuda_extras

if importlib.util.find_spec("vllm"):
    hide_cuda_extras()  # before vLLM is imported, as in `eval`
vllm = pytest.importorskip("vllm", reason="needs vLLM: pip install -e '.[eval-cpu]'")

from mi_kernels.cli.vllm_options import REFUSED, REPLACED  # noqa: E402
from mi_kernels.errors import ArgumentError  # noqa: E402
from mi_kernels.integrations.vllm import register  # noqa: E402
from mi_kernels.integrations.vllm.client import NotLiveError  # noqa: E402
from mi_kernels.integrations.vllm.http_client import ServerError, change_lam, get_lam  # noqa: E402
from mi_kernels.integrations.vllm.server import ServerOptions, has_key  # noqa: E402

from ...support import ROOT  # noqa: E402

TINY = ROOT / "eval/tiny_pair"
PAIR = (str(TINY / "instruct"), str(TINY / "thinking"))
ENGINE = ["--dtype", "bfloat16", "--enforce-eager", "--kv-cache-memory-bytes", "67108864", "--max-model-len", "384"]
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    # All processes of vLLM must look for its packages without those that need CUDA.
    "PYTHONPATH": os.pathsep.join([str(ROOT / "eval/engines/startup"), str(ROOT)]),
}
PROGRAM = [sys.executable, "-c", "import sys; from mi_kernels.cli import main; sys.exit(main())", "serve"]


@pytest.fixture(scope="module")
def options() -> ServerOptions:
    return ServerOptions()


@pytest.mark.parametrize(
    "words",
    [["--api-key=K"], ["--api_key", "K"], ["--api_key=K"], ["--api-k", "K"], ["--api-key", "a", "--api-key", "K"]],
)
def test_keys_in_every_form(options: ServerOptions, words: list[str]) -> None:
    assert has_key(options.parse(words), {})


def test_keys_of_config_files_and_the_environment(options: ServerOptions, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("api-key: K\nport: 8123\ntokenizer: t\n")
    words = ["--config", str(file)]
    assert has_key(options.parse(words), {})
    assert options.given(words, [*REFUSED, *REPLACED]) == {"port": 8123, "tokenizer": "t"}
    assert not has_key(options.parse([]), {})
    assert not has_key(options.parse(["--api-key", ""]), {"VLLM_API_KEY": "K"})  # as vLLM: the option replaces it
    assert has_key(options.parse([]), {"VLLM_API_KEY": "K"})


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--host=0.0.0.0"], {"host": "0.0.0.0"}),
        (["--hos", "::"], {"host": "::"}),
        (["--load_format", "dummy"], {"load_format": "dummy"}),
        (["--model-loader-extra-config.lam", "1"], {"model_loader_extra_config": {"lam": 1}}),
        (["a-word"], {"model_tag": "a-word"}),
        (["--config=c.yaml"], {"config": "c.yaml"}),
        (["--max-model-len", "1k"], {}),
        ([], {}),
    ],
)
def test_which_options_are_given(options: ServerOptions, words: list[str], given: dict[str, Any]) -> None:
    assert options.given(words, [*REFUSED, *REPLACED]) == given


def test_every_option_that_we_refuse_or_replace_is_vllms(options: ServerOptions) -> None:
    assert {*REFUSED, *REPLACED} <= set(vars(options.parse([])))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--max-model-len", "x"], "argument --max-model-len"),
        (["--config", "./nothing.yaml"], "No such file"),
        (["--config"], "No config file specified"),
    ],
)
def test_invalid_options(options: ServerOptions, words: list[str], problem: str) -> None:
    with pytest.raises(ArgumentError, match=f"vLLM's options: .*{problem}"):
        options.parse(words)


def test_the_loaders_options_are_checked_before_an_engine_starts() -> None:
    """With `LLM` as with `vllm serve`, which creates the same configuration."""
    register()
    from vllm.engine.arg_utils import EngineArgs

    def create(model: str = PAIR[0], **config: Any) -> None:
        EngineArgs(model, load_format="mi_kernels", model_loader_extra_config=config).create_engine_config()

    with pytest.raises(ArgumentError, match="unknown key 'lamb'"):
        create(other=PAIR[1], lamb=0.5)
    with pytest.raises(ArgumentError, match="other is missing"):
        create(lam=0.5)
    with pytest.raises(ArgumentError, match="beyond the 4 layers"):
        create(other=PAIR[1], lam=0.5, layers="7:9")
    register()  # a second time
    with pytest.raises(ArgumentError, match="beyond the 4 layers"):
        create(other=PAIR[1], lam=0.5, layers="7:9")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def serving(folder: Path, *words: str, pair: tuple[str, str] = PAIR) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The command in a session of its own, as a terminal or systemd starts it, and the file with its stderr."""
    said = folder / "stderr"
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}, **ENVIRONMENT}
    with said.open("wb") as err, (folder / "stdout").open("wb") as out:
        process = subprocess.Popen(
            [*PROGRAM, *pair, *words], env=environment, stdout=out, stderr=err, start_new_session=True
        )
        try:
            yield process, said
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(process: subprocess.Popen[bytes], said: Path, text: str) -> str:
    while text not in said.read_text():
        assert process.poll() is None, said.read_text()[-3000:]
        time.sleep(0.2)
    return said.read_text()


def test_a_server_is_changed_and_stopped(tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    words = ["--lam", "0.5", "--extrapolate", "--port", str(port), "--", *ENGINE, "--api_key=K"]
    with serving(tmp_path, *words) as (process, said):
        began = wait_for(process, said, "mi-kernels: starting vLLM")
        assert base not in began
        text = wait_for(process, said, f"mi-kernels: lam 0.5 at {base}/v1")
        assert "Application startup complete" in text
        with pytest.raises(ServerError, match="API key is missing or wrong"):
            get_lam(base, api_key="wrong")
        assert get_lam(base, api_key="K")["lam"] == 0.5
        assert change_lam(base, 1.5, layers="1:", api_key="K")["lam"] == 1.5  # as --extrapolate allows
        for wanted, problem in (({"lam": "0.5"}, "lam is text"), ({"lam": 0.5, "layers": "9:"}, "beyond the 4 layers")):
            with pytest.raises(ArgumentError, match=problem):
                change_lam(base, api_key="K", **wanted)
        assert get_lam(base, api_key="K") == {"lam": 1.5, "layers": "1:", "extrapolate": True}
        process.send_signal(signal.SIGTERM)  # as systemd does
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("stage", "number", "status"),
    [("import", signal.SIGINT, 130), ("engine", signal.SIGINT, 130), ("engine", signal.SIGTERM, 143)],
)
def test_stopped_while_vllm_starts(tmp_path: Path, stage: str, number: signal.Signals, status: int) -> None:
    with serving(tmp_path, "--lam", "0.5", "--port", str(free_port()), "--", *ENGINE) as (process, said):
        if stage == "import":
            wait_for(process, Path(f"/proc/{process.pid}/maps"), "libtorch")
        else:
            wait_for(process, tmp_path / "stdout", "Initializing a V1 LLM engine")
            assert "mi-kernels: starting vLLM" in said.read_text()
        time.sleep(1)
        os.killpg(process.pid, number)  # to all processes, as a terminal and systemd do
        assert process.wait(timeout=60) == status
    assert "mi-kernels: stopped before the server answered" in said.read_text().splitlines()


def engine_of(process: subprocess.Popen[bytes]) -> int:
    """The process of vLLM's engine, a child of the server."""
    found = []
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if "EngineCore" in Path(f"/proc/{child}/cmdline").read_text() + Path(f"/proc/{child}/comm").read_text():
            found.append(int(child))
    (engine,) = found
    return engine


def test_an_engine_that_dies_ends_the_server_with_an_error(tmp_path: Path) -> None:
    """vLLM's own server ends with 0 then. Before that, THINKING's folder is removed, which is no fatal error."""
    thinking = tmp_path / "thinking"
    shutil.copytree(PAIR[1], thinking)
    port = free_port()
    words = ["--lam", "0.5", "--port", str(port), "--", *ENGINE]
    with serving(tmp_path, *words, pair=(PAIR[0], str(thinking))) as (process, said):
        wait_for(process, said, "mi-kernels: to change it")
        shutil.rmtree(thinking)
        with pytest.raises(NotLiveError, match="is no longer readable"):
            change_lam(f"http://127.0.0.1:{port}", 0.8)
        assert get_lam(f"http://127.0.0.1:{port}")["lam"] == 0.5
        os.kill(engine_of(process), signal.SIGKILL)
        assert process.wait(timeout=120) == 2
    # Python's resource tracker, a process that outlives the server, may warn after them of what the engine left.
    lines = said.read_text().splitlines()
    problem = lines.index("mi-kernels: vLLM's engine has died, and the server has stopped")
    assert "messages above" in lines[problem + 1]


def test_a_model_that_is_removed_while_vllm_is_imported(tmp_path: Path) -> None:
    thinking = tmp_path / "thinking"
    shutil.copytree(PAIR[1], thinking)
    words = ["--lam", "0.5", "--port", str(free_port()), "--", *ENGINE]
    with serving(tmp_path, *words, pair=(PAIR[0], str(thinking))) as (process, said):
        wait_for(process, Path(f"/proc/{process.pid}/maps"), "libtorch")
        shutil.rmtree(thinking)
        assert process.wait(timeout=120) == 2
    assert "Traceback" not in said.read_text()
    problem, remedy = said.read_text().splitlines()[-2:]
    assert problem.startswith(f"mi-kernels: {thinking}: no such folder")
    assert remedy.startswith("  ")


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT, **variables}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


def test_options_that_vllm_refuses_come_before_the_start_is_announced(tmp_path: Path) -> None:
    done = run(*PROGRAM, *PAIR, "--lam", "0.5", "--port", str(free_port()), "--", "--config", "./nothing.yaml")
    assert done.returncode == 2
    assert "starting vLLM" not in done.stderr
    problem, remedy = done.stderr.splitlines()[-2:]
    assert "./nothing.yaml" in problem
    assert "after --" in remedy


def test_a_port_that_is_taken_between_our_check_and_vllms_bind() -> None:
    code = (
        "import sys\n"
        "from mi_kernels.cli.shell import guarded\n"
        "from mi_kernels.integrations.vllm.server import ServerOptions, run_server\n"
        "sys.exit(guarded('p', lambda: run_server(ServerOptions().parse(sys.argv[1:]), print), ''))"
    )
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = run(sys.executable, "-c", code, "--model", PAIR[0], "--host", "127.0.0.1", "--port", str(port))
    assert done.returncode == 2
    problem, remedy = done.stderr.splitlines()[-2:]
    assert problem == f"p: port {port} of 127.0.0.1 is in use"
    assert "--port" in remedy


@pytest.mark.parametrize(("level", "traced"), [("INFO", False), ("DEBUG", True)])
def test_a_typo_in_vllms_own_server_ends_in_two_lines(level: str, traced: bool) -> None:
    config = json.dumps({"other": PAIR[1], "lamb": 0.5})
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", PAIR[0], "--port", str(free_port()), *ENGINE]
    more = ["--load-format", "mi_kernels", "--model-loader-extra-config", config]
    done = run(sys.executable, *words, *more, VLLM_LOGGING_LEVEL=level)
    assert done.returncode == 1  # as of any exception that nobody catches
    assert ("Traceback" in done.stderr) is traced
    problem, remedy = done.stderr.splitlines()[-2:]
    assert problem.endswith("model_loader_extra_config: unknown key 'lamb'")
    assert "lam" in remedy
