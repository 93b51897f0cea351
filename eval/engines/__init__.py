"""The engines that turn prompts into responses, behind one small interface.

| kind           | generates                                                                                |
| -------------- | ---------------------------------------------------------------------------------------- |
| `vllm`         | in one process or several beside this one, each on its own GPUs, or on the CPU             |
| `openai`       | on any OpenAI-compatible server, by URL                                                  |
| `transformers` | with `transformers` on the CPU or a GPU: a slow substitute where vLLM cannot be installed |

This process never imports vLLM or torch: an engine that dies takes no finished response with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import EvalError
from ..schema import Sampling

KINDS = ("vllm", "openai", "transformers")


@dataclass(frozen=True)
class Request:
    """One response wanted. `index` is the caller's own number for it; `prompt` is the user turn."""

    index: int
    prompt: str
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class Completion:
    """One response: the fields are those of `schema.Response`."""

    index: int
    text: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Options:
    """How an engine runs; what it generates depends on none of them but for the last bits of its logits.

    Attributes:
        url: of the server, for `openai`. concurrency: requests in flight there.
        engines: processes that share the requests. tensor_parallel: GPUs of each.
        max_num_seqs: responses generated together. gpu_memory_utilization: vLLM's share of each GPU's memory.
        kv_cache_memory: bytes of it on the CPU, by default what the model and `max_num_seqs` ask for.
        threads: of each engine on the CPU, by default its share of the cores.
        extra: further arguments of `vllm.LLM`, by name.
    """

    kind: str = "vllm"
    url: str | None = None
    concurrency: int = 64
    engines: int = 1
    tensor_parallel: int = 1
    max_num_seqs: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory: int | None = None
    threads: int | None = None
    dtype: str = "auto"
    extra: Mapping[str, Any] | None = None


class Refusal(Exception):
    """A failure that an engine process explains itself: its text is for the user as it is."""


class Engine(Protocol):
    """Generates for one model at a time. A context manager: leaving it stops what it started."""

    def open(self, model: str, length: int) -> Mapping[str, Any]:
        """Makes `model` the one that generates.

        Args:
            model: a folder, or what a server calls it. length: tokens that the longest prompt and response may take.

        Returns:
            What `schema.Run.engine` holds: name, version, settings.

        Raises:
            EngineError: it cannot.
        """

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Every response as it finishes, in any order.

        Raises:
            EngineError: the engine failed; what was yielded before is whole.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exception: object) -> None: ...


def create(options: Options) -> Engine:
    """The engine that `options` describe, not started yet.

    Raises:
        EvalError: there is none, or what it needs is not installed.
    """
    if options.kind == "openai":
        from .openai_server import OpenAIServer

        return OpenAIServer(options)
    if options.kind in KINDS:
        from .processes import Processes

        return Processes(options)
    raise EvalError(f"there is no engine {options.kind!r}", f"Give one of {', '.join(KINDS)}.")
