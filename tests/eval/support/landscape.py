"""A pair whose merges behave in a known way, and an engine that answers for them: what searches are tested with.

The pair has 4 layers. With w_0..w_3 the mean weights of the layers, a response is right with the chance

    0.2 + 0.7 * (1 - (1 - a)^2),  a = (w_2 + w_3) / 2

and has about 20 + 60 * (w_0 + w_1) + 10 * (w_2 + w_3) tokens. So the last two layers make it accurate at little cost,
and the first two cost tokens for nothing: the front has w_0 = w_1 = 0, and no plain interpolation is on it except lam
0.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.engines import Completion, Request
from eval.schema import Benchmark, Problem, Verdict
from mi_kernels import Recipe

from .fakes import model

LAYERS = 4
PROBLEMS = [Problem(f"p{i:02}", f"Problem {i}", i) for i in range(48)]


def names() -> list[str]:
    inside = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
    return ["model.embed_tokens.weight", *(f"model.layers.{i}.{part}" for i in range(LAYERS) for part in inside)]


def pair(folder: Path) -> tuple[str, str]:
    """Two models with these tensors. The last layers differ most."""
    from safetensors.numpy import save_file

    made = []
    for k, name in enumerate(("instruct", "thinking")):
        place = folder / name
        model(place, architectures=["Qwen3ForCausalLM"], model_type="qwen3", num_hidden_layers=LAYERS)
        tensors = {}
        for tensor in names():
            layer = int(tensor.split(".")[2]) if ".layers." in tensor else 0
            rng = np.random.default_rng(len(tensor) + layer)
            base = rng.normal(size=(4, 4)).astype(np.float32)
            tensors[tensor] = base + np.float32(k * 0.01 * (1 + layer)) * rng.normal(size=(4, 4)).astype(np.float32)
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
        made.append(str(place))
    return made[0], made[1]


def grade(reference: Any, text: str) -> Verdict:
    return Verdict(text.endswith("right"), text)


def benchmark(name: str = "known", **changes: Any) -> Benchmark:
    content = {"samples": 4, "max_tokens": 400, "load": lambda path: PROBLEMS, "grade": grade}
    return Benchmark(name=name, title=name.title(), **{**content, **changes})


def weights(recipe: Recipe) -> list[float]:
    """The mean weight of each layer."""
    found = recipe.weights(names())
    layers = [[w for n, w in found.items() if f".layers.{i}." in n] for i in range(LAYERS)]
    return [sum(layer) / len(layer) for layer in layers]


def chance(recipe: Recipe) -> float:
    w = weights(recipe)
    return 0.2 + 0.7 * (1 - (1 - (w[2] + w[3]) / 2) ** 2)


def tokens(recipe: Recipe) -> float:
    w = weights(recipe)
    return 20 + 60 * (w[0] + w[1]) + 10 * (w[2] + w[3])


class LandscapeEngine:
    """Answers at once, by the recipe of the LivePair, the prompt and the seed alone.

    Args:
        kill_after: kills this process when so many responses were generated, in the middle of a candidate.
        delay: seconds for each response.
    """

    def __init__(self, kill_after: int | None = None, delay: float = 0.0) -> None:
        self.kill_after, self.delay = kill_after, delay
        self.recipe: Recipe | None = None
        self.asked: list[tuple[str, Request]] = []  # with the recipe as text
        self.opened = 0

    def refuses_pairs(self) -> str:
        return ""

    def open(self, model: Any, length: int) -> Mapping[str, Any]:
        self.recipe = model.recipe
        self.opened += 1
        return {"name": "landscape", "version": "1", "settings": {}}

    def generate(self, requests: Sequence[Request], stop: Callable[[], bool] = lambda: False) -> Iterator[Completion]:
        assert self.recipe is not None
        right, length, text = chance(self.recipe), tokens(self.recipe), json.dumps(self.recipe.to_dict())
        for request in requests:
            if stop():
                return
            if self.kill_after is not None and len(self.asked) == self.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.delay:
                time.sleep(self.delay)
            self.asked.append((text, request))
            drawn = hashlib.sha256(f"{request.prompt} {request.seed}".encode()).digest()
            is_right = int.from_bytes(drawn[:4], "big") / 2**32 < right
            count = round(length * (0.8 + 0.4 * drawn[4] / 255))
            yield Completion(request.index, "right" if is_right else "wrong", count, "stop")

    def running(self) -> Sequence[int]:
        return []

    def close(self) -> None: ...

    def __enter__(self) -> LandscapeEngine:
        return self

    def __exit__(self, *exception: object) -> None: ...
