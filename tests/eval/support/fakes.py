"""A benchmark of sums and engines that answer it at once: what the driver is tested with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.engines import Completion, PairRefusal, Refusal, Request
from eval.errors import EngineError
from eval.run.grading import graded_text
from eval.schema import Benchmark, Problem, Response, Verdict

PROBLEMS = [Problem(f"sum-{i}", f"What is {i} + {i} {{in braces}}?", 2 * i) for i in range(5)]


def grade(reference: Any, text: str) -> Verdict:
    answer = text.strip().split()[-1] if text.strip() else None
    return Verdict(answer == str(reference), answer)


def grade_here(benchmark: Benchmark, role: str, problems: Any, responses: Sequence[Response]) -> list[Verdict]:
    """`eval.run.grading.grade` in this process: starting others takes longer than a test of the driver."""
    references = {p.id: p.reference for p in problems}
    return [benchmark.grade(references[r.problem], graded_text(role, r.text)) for r in responses]


def sums(name: str = "sums", **changes: Any) -> Benchmark:
    content = {"samples": 4, "max_tokens": 100, "load": lambda path: PROBLEMS, "grade": grade, "ks": (1, 2)}
    return Benchmark(name=name, title=name.title(), **{**content, **changes})


def model(folder: Path, **config: Any) -> str:
    """A folder that looks like a model from afar."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, **config}))
    return str(folder)


def mergeable(folder: Path, width: int = 4) -> str:
    """A model of two layers that mi_kernels merges."""
    import numpy as np
    from safetensors.numpy import save_file

    model(folder, architectures=["Qwen3ForCausalLM"], model_type="qwen3", num_hidden_layers=2)
    weight = np.zeros((width, width), np.float32)
    names = ["embed_tokens.weight", *(f"layers.{i}.mlp.down_proj.weight" for i in range(2))]
    save_file({f"model.{name}": weight for name in names}, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def completion(request: Request) -> Completion:
    """What every fake engine says: it depends on the prompt and the seed alone."""
    number = int(request.prompt.split()[2])
    answer = 2 * number + (request.seed % 3 == 0)
    thought = "\u00e9 hm</think>" if request.seed % 2 else ""
    return Completion(request.index, f"{thought}It is {answer}", 5 + request.seed % 7, "stop")


class FakeEngine:
    """Answers in reverse order, and fails after `fail_after` responses with `error`."""

    def __init__(self, fail_after: int | None = None, error: BaseException | None = None) -> None:
        self.fail_after, self.error = fail_after, error or EngineError("the engine broke", "Fix it.")
        self.asked: list[Request] = []
        self.opened: list[str] = []

    def refuses_pairs(self) -> str:
        return "a fake engine holds no pair"

    def open(self, model: str, length: int) -> Mapping[str, Any]:
        self.opened.append(model)
        return {"name": "fake", "version": "1", "settings": {"length": length}}

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self.asked += requests
        for i, request in enumerate(reversed(requests)):
            if i == self.fail_after:
                raise self.error
            yield completion(request)

    def running(self) -> Sequence[int]:
        return []

    def close(self) -> None: ...

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *exception: object) -> None: ...


class FakeBackend:
    """A backend for engine processes; a prompt with a word of `DEEDS` makes it do that in the middle."""

    def open(self, model: str, length: int, options: Mapping[str, Any]) -> Mapping[str, Any]:
        print("said to stdout by an engine, which must not be taken for an answer")
        return {"name": "fake", "version": "1", "settings": {}}

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for request in requests:
            for word, deed in DEEDS.items():
                if word in request.prompt and _once():
                    deed()
            yield completion(request)


class PairBackend(FakeBackend):
    """Holds a model or a pair. A response is the lam, the process and how many models it has opened.

    $MI_FAKE_SET is NUMBER=WORD: the engine with this number does the deed when its weights are to change.
    """

    def __init__(self) -> None:
        self.opens = 0
        self.lam: Any = None

    def open(self, model: Any, length: int, options: Mapping[str, Any]) -> Mapping[str, Any]:
        self.opens += 1
        if isinstance(model, str):
            self.lam = Path(model).name
        else:
            deed = os.environ.get("MI_FAKE_OPEN")
            if deed == "OOM-DEVICE":
                deed = "OOM" if model["resident"] == "device" else None
            if deed:
                DEEDS[deed]()
            assert (Path(model["files"]) / "config.json").is_file()
            self.lam = model["recipe"]["lam"]
        return {"name": "fake", "version": "1", "settings": {"length": length}}

    def set(self, recipe: Mapping[str, Any], files: str) -> Mapping[str, Any]:
        assert (Path(files) / "config.json").is_file()
        number, _, deed = os.environ.get("MI_FAKE_SET", "").partition("=")
        if deed and f"engine-{number}-" in os.readlink("/proc/self/fd/2"):
            DEEDS[deed]()
        self.lam = recipe["lam"]
        return {"seconds": 0.0}

    def generate(self, requests: Any) -> Iterator[Completion]:
        for request in requests:
            for word, deed in DEEDS.items():
                if word in request.prompt and _once():
                    deed()
            yield Completion(request.index, f"{self.lam} {os.getpid()} {self.opens}", 1, "stop")


class SlowBackend(FakeBackend):
    def generate(self, requests: Any) -> Iterator[Completion]:
        for completion in super().generate(requests):
            time.sleep(0.05)
            yield completion


class UnevenBackend(FakeBackend):
    """One of two is slow. A response says by which of them it was generated."""

    def generate(self, requests: Any) -> Iterator[Completion]:
        slow = "engine-0" in os.readlink("/proc/self/fd/2")
        for request in requests:
            time.sleep(0.05 * slow)
            yield Completion(request.index, "slow" if slow else "fast", 1, "stop")


def _once() -> bool:
    """Whether this is the first time, of all processes, if $MI_FAKE_ONCE names a file to remember it; else always."""
    path = os.environ.get("MI_FAKE_ONCE")
    if path is None:
        return True
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


def _raise(error: Exception, cause: Exception | None = None) -> None:
    raise error from cause


def _kill() -> None:
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    import sys

    print("last words of a library", file=sys.stderr, flush=True)
    os._exit(7)


def _lose_child() -> None:
    """As vLLM does when the process that holds its model dies."""
    import sys

    print("(EngineCore pid=7) torch.OutOfMemoryError: CUDA out of memory. Tried to", file=sys.stderr, flush=True)
    raise RuntimeError("EngineCore encountered an issue. See stack trace (above) for the root cause.")


DEEDS = {
    "LOST": _lose_child,
    "OOM": lambda: _raise(RuntimeError("engine died"), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")),
    "CACHE": lambda: _raise(ValueError("No available memory for the cache blocks. Try increasing")),
    "REFUSE": lambda: _raise(Refusal("the model has no chat template")),
    "PAIR": lambda: _raise(PairRefusal("3 of 9 tensors differ")),
    "BUG": lambda: _raise(KeyError("oops")),
    "KILL": _kill,
    "EXIT": _exit,
}
