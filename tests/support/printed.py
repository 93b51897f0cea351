"""Runs what the pages print: Python blocks and lines of shell, in a folder with tiny models of the pages' names."""

from __future__ import annotations

import argparse
import atexit
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mi_kernels import lerp_checkpoint
from mi_kernels.cli.program import build_parser

from . import ROOT
from .adapters import write_adapter
from .documents import Block, arguments_of, blocks
from .fp8_models import fp8_model, quantised
from .models import qwen3_model

LAYERS = 36  # as many as Qwen3-4B has: the ranges of the pages, such as 12:36, fit
# vLLM's attention on a CPU does not know heads of 8 values, and `--max-model-len 32768` must not exceed the model.
_HEADS = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 32768}
_SIZES: dict[str, Any] = {"tied": False, "num_hidden_layers": LAYERS, "vocab_size": 320, **_HEADS}
MODELS = {  # the names that the pages use, and which model each of them is
    "base": ("B", "Qwen/Qwen3-4B-Base"),
    "instruct": ("I", "A", "INSTRUCT", "Qwen/Qwen3-4B-Instruct-2507"),
    "thinking": ("T", "THINKING", "Qwen/Qwen3-4B-Thinking-2507"),
    "hybrid": ("H", "Qwen/Qwen3-4B"),
}

# What a block that does not run everywhere may need: `<!-- not run: needs KEY ... -->`.
NEEDS = {
    "a cluster": "several machines",
    "a fresh environment": "it installs into the environment that runs it",
    "a GPU": "a CUDA device",
    "a Hub": "an account on the Hugging Face Hub",
    "a release": "a tag, files on PyPI or on GitHub",
    "a server": "the server that an earlier command started",
    "eval": "the packages of `.[eval]`, and transformers",
    "mergekit": "mergekit, and $MERGEKIT_ENV",
    "minutes": "more time than a test of a page may take",
    "Ray": "the package ray",
    "the network": "models or data from elsewhere",
    "vLLM": "vLLM",
    "your own files": "a file or a number of the reader's",
}

# Options that make a command small. The last one counts, so each stands after what the page prints.
SMALLER = {
    "python -m bench.all": "--quick --only safety --results results --folder bench-work",
    "python -m bench.memory": "-k 4KiB",
    "python -m bench.files.merge": "--most 0.02 --sizes 0.02 --rounds 1 --folder bench-work",
    "python -m bench.files.sweep": "--most 0.02 --rounds 1 --folder bench-work",
    "python -m bench.files.methods": "--most 0.02 --rounds 1 --folder bench-work",
    "python -m bench.files.safety": "--most 0.02 --rounds 1 --folder bench-work",
    "python -m bench.files.ray": "--size 0.02 --rounds 1 --folder bench-work",
    "python -m bench.serving": "--most 0.05 --rounds 1 --folder bench-work",
    "python -m bench.gpu pack": "--no-build",
}

# For vLLM's CPU build, which otherwise binds its threads to cores, compiles for minutes and takes most of the memory.
_VLLM_ON_A_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
_SERVE = "--dtype bfloat16 --enforce-eager --kv-cache-memory-bytes 268435456 --max-model-len 512"
_LLM = (r"(\bLLM\(\s*\"[^\"]*\",)", r"\1 enforce_eager=True, kv_cache_memory_bytes=1 << 28,")


@dataclass(frozen=True)
class Outcome:
    """What became of a block of Python, or of a line of shell. `problem` is empty if it ran; `skipped` says why not."""

    place: str
    text: str
    problem: str = ""
    skipped: str = ""


def make_models(root: Path) -> None:
    """Makes every model that the pages name, and two merges of them."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    for seed, (name, others) in enumerate(MODELS.items()):
        qwen3_model(seed, **_SIZES).save_pretrained(root / name)
        for other in others:
            (root / other).parent.mkdir(exist_ok=True)
            shutil.copytree(root / name, root / other)
    adapter = {
        f"model.layers.0.self_attn.q_proj.lora_{side}.weight": torch.randn(shape)
        for side, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    write_adapter(root / "my-adapter", adapter)
    for seed, name in enumerate(("instruct-fp8", "thinking-fp8")):
        quantised(root / name, fp8_model(seed))
    for name in ("mi-0.8", "OUT"):
        lerp_checkpoint(root / "instruct", root / "thinking", root / name, 0.8, progress=False)
    (root / "config.yml").write_text(
        "merge_method: linear\nmodels: [{model: instruct, parameters: {weight: 1}},"
        " {model: thinking, parameters: {weight: 3}}]\ndtype: bfloat16\n"
    )


def add_tokenizers(root: Path) -> None:
    """Gives the models a tokenizer and a chat template, which vLLM needs; it has fewer tokens than the models' rows."""
    for name, others in MODELS.items():
        for model in (name, *others):
            for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
                shutil.copy(ROOT / "eval" / "tiny_pair" / "instruct" / file, root / model / file)


def environment(programs: Path, package: Path, beside: Path, *, vllm: bool = False) -> dict[str, str]:
    """The variables for the commands: `mi-kernels` and `python` are in `programs` and use `package`; nothing is online.

    Args:
        programs: a folder that is created. package: the folder above `mi_kernels`. beside: for the Hub's cache.
        vllm: the commands may start it.
    """
    paths = [package, *([package / "eval" / "engines" / "startup"] if vllm else [])]
    programs.mkdir()
    mains = {"mi-kernels": "mi_kernels.cli", "mi-kernels-mergekit": "mi_kernels.cli.mergekit"}
    calls = {name: f' -c "import sys; from {module} import main; sys.exit(main())"' for name, module in mains.items()}
    for name, call in {**calls, "python": "", "python3": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        (programs / name).chmod(0o755)
    return {
        **os.environ,
        **(_VLLM_ON_A_CPU if vllm else {}),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",  # a model that is missing must not be looked for elsewhere
        "HF_HOME": str(beside / "hub"),
    }


def run_page(
    page: Path, folder: Path, variables: Mapping[str, str], having: Collection[str] = (), seconds: float = 600
) -> Iterator[Outcome]:
    """Runs the blocks of `page` in `folder`, in order, and yields what became of each part.

    Python blocks of a page share their names and run in this process, except programs with a `__main__`.

    Args:
        having: the keys of NEEDS that this machine offers.
        seconds: the limit of one command.
    """
    names: dict[str, Any] = {"__name__": "page"}
    server: Server | None = None
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text)
        parts = [block.text] if block.language == "python" else block.commands
        offered = {*having, *(["a server"] if server is not None else [])}
        missing = [need for need in needs(block) if need not in offered]
        if "a fresh environment" not in needs(block) and block.language != "python":
            for part in filter(installs, parts):
                raise AssertionError(f"{block.place}: {part!r} would change this environment; mark its block")
        for part in parts:
            if missing:
                yield Outcome(block.place, part, skipped=f"needs {', '.join(missing)}")
            elif Server.is_started_by(part):
                if server is not None:
                    yield Outcome(block.place, f"stopping: {server.line}", server.stop(seconds))
                server = Server(part, _state(block, part), folder, variables)
                yield Outcome(block.place, part, server.wait(seconds))
            elif block.language != "python":
                yield Outcome(block.place, part, _run_line(part, _state(block, part), folder, variables, seconds))
            elif block.is_program:
                program = folder / f"{page.stem}_{block.line}.py"
                program.write_text(re.sub(*_LLM, block.text))
                line = f"python {program.name}"
                yield Outcome(block.place, part, _run_line(line, [], folder, variables, seconds))
            else:
                yield Outcome(block.place, part, _execute(block, names))
    if server is not None:
        yield Outcome(page.name, f"stopping: {server.line}", server.stop(seconds))


class Server:
    """A server of a page, which runs while the blocks that need one do, until the next one starts or the page ends."""

    def __init__(self, line: str, state: list[str], folder: Path, variables: Mapping[str, str]) -> None:
        self.line = line
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", "\n".join([*state, f"exec {_small(line)}"])],
                cwd=folder,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self._kill)  # whatever happens to the page

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @staticmethod
    def is_started_by(line: str) -> bool:
        """Whether a line of shell starts a server, which does not end by itself."""
        return line.startswith("mi-kernels serve ") and not {"--check", "--help"} & set(line.split())

    def wait(self, seconds: float) -> str:
        """Waits until the server answers. Returns what it printed if it does not."""
        end = time.monotonic() + seconds
        while "mi-kernels: to change it: " not in self._log.read_text():
            if self._process.poll() is not None or time.monotonic() > end:
                return f"the server does not answer\n{self._log.read_text()}"
            time.sleep(0.5)
        return ""

    def stop(self, seconds: float) -> str:
        """Stops the server, as systemd does. Returns what it printed if it fails."""
        self._process.terminate()
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._kill()
            return f"the server does not stop\n{self._log.read_text()}"
        return f"exit status {status}\n{self._log.read_text()}" if status else ""


def installs(line: str) -> bool:
    """Whether a line of shell changes the packages of the environment that runs it, or of another one on PATH."""
    return re.search(r"\b(pip|uv|apt|apt-get|conda|npm)\b.*\b(install|uninstall|sync)\b", line) is not None


def needs(block: Block) -> list[str]:
    """The keys of NEEDS in the comment before `block`."""
    return [key for key in NEEDS if block.not_run and re.search(rf"\b{re.escape(key)}\b", block.not_run)]


def parsed(words: list[str]) -> argparse.Namespace:
    """The arguments of a call of mi-kernels, as the program parses them."""
    own = words[: words.index("--")] if words[:1] == ["serve"] and "--" in words else words
    return build_parser().parse_args(own)


def _execute(block: Block, names: dict[str, Any]) -> str:
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    try:
        exec(code, names)
    except Exception:
        import traceback

        return traceback.format_exc()
    return ""


def _state(block: Block, line: str) -> list[str]:
    """The earlier lines of the block that change the state of the shell."""
    before = block.commands[: block.commands.index(line)]
    return [each for each in before if re.match(r"(export|cd|ulimit) ", each)]


def _run_line(line: str, state: list[str], folder: Path, variables: Mapping[str, str], seconds: float) -> str:
    """Runs a line of shell. Returns what it printed if it failed."""
    _make_room(line, folder)
    line = _small(line)
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join([*state, line])],
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {seconds:g} s"
    printed = f"{done.stdout}{done.stderr}"
    if done.returncode:
        return f"exit status {done.returncode}\n{printed}"
    return f"a traceback, though the exit status is 0\n{printed}" if "Traceback (most recent" in printed else ""


def _small(line: str) -> str:
    """The line with the options that make its command small."""
    bare = line.split(" #")[0]
    if line.startswith("mi-kernels serve "):
        return f"{bare} {'' if ' -- ' in bare else '-- '}{_SERVE}"
    return next((f"{bare} {more}" for start, more in SMALLER.items() if _starts(line, start)), line)


def _starts(line: str, start: str) -> bool:
    return line == start or line.startswith(f"{start} ")


def _make_room(line: str, folder: Path) -> None:
    """Removes what is in the place where this command writes."""
    if "make_models.py" in line:
        for name in ("base", "instruct", "thinking"):
            shutil.rmtree(folder / name)
    for words in arguments_of(line):
        out = getattr(parsed(words), "out", None)
        if isinstance(out, str) and "-o" in words and "--overwrite" not in words:
            for made in glob.glob(re.sub(r"\\?\{lam\}", "*", out), root_dir=folder):
                path = folder / made
                shutil.rmtree(path) if path.is_dir() else path.unlink()
