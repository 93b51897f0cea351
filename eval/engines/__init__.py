"""The engines that turn prompts into responses, behind one small interface.

| kind           | generates                                                                                  |
| -------------- | ------------------------------------------------------------------------------------------ |
| `vllm`         | in one or several other processes, each on its own GPUs, or on the CPU                     |
| `openai`       | on any OpenAI-compatible server, by URL                                                    |
| `transformers` | with `transformers` on the CPU or a GPU: slow, for machines where vLLM cannot be installed |

This process never imports vLLM or torch, so finished responses survive an engine that dies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import EvalError
from ..schema import Sampling

if TYPE_CHECKING:
    from .live_pair import LivePair

KINDS = ("vllm", "openai", "transformers")


@dataclass(frozen=True)
class Request:
    """One response to generate. `index` is the caller's number for it; `prompt` is the user turn."""

    index: int
    prompt: str
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class Completion:
    """One generated response; for the fields see `schema.Response`."""

    index: int
    text: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Options:
    """How an engine runs. These options change at most the last bits of its logits.

    Attributes:
        url: of the server, for `openai`. concurrency: requests in flight there.
        engines: processes that share the requests. tensor_parallel: GPUs of each.
        max_num_seqs: responses generated together. gpu_memory_utilization: vLLM's share of each GPU's memory.
        kv_cache_memory: bytes of KV cache on the CPU; by default it follows from the model and `max_num_seqs`.
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


def refuses_pairs(options: Options) -> str:
    """Why an engine with these options cannot open any LivePair, to be shown to the user; "" if it can."""
    if options.kind != "vllm":
        return f"the engine {options.kind} cannot change the weights of a model"
    return "further arguments of vLLM are set" if options.extra else ""


class Refusal(Exception):
    """A failure that an engine process explains itself. The text is shown to the user unchanged."""


class PairRefusal(Refusal):
    """An engine process cannot hold a LivePair, or not with this recipe; it holds what it held before."""


class Engine(Protocol):
    """Generates for one model at a time. A context manager: leaving it stops what it started."""

    def refuses_pairs(self) -> str:
        """Why this engine cannot open any LivePair, to be shown to the user; "" if it can."""

    def open(self, model: str | LivePair, length: int) -> Mapping[str, Any]:
        """Loads `model`. If the engine holds another merge of the same LivePair, it only changes its weights.

        Args:
            model: a folder, the server's name for it, or two folders to interpolate in memory.
            length: the most tokens of a prompt and its response.

        Returns:
            The content of `schema.Run.engine`: name, version, settings.

        Raises:
            live_pair.NotLiveError: this engine cannot hold the LivePair: evaluate a merged folder instead.
            EngineError: the model cannot be loaded.
        """

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Every response as it finishes, in any order.

        Raises:
            EngineError: the engine failed. Responses yielded before are complete.
        """

    def running(self) -> Sequence[int]:
        """The tokens that each response in flight has reached, as far as the engine knows them: for estimates."""

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exception: object) -> None: ...


def create(options: Options) -> Engine:
    """The engine described by `options`, not started yet.

    Raises:
        EvalError: the kind is unknown, or a package that it needs is missing.
    """
    if options.kind == "openai":
        from .openai_server import OpenAIServer

        return OpenAIServer(options)
    if options.kind in KINDS:
        from .processes import Processes

        return Processes(options)
    raise EvalError(f"unknown engine {options.kind!r}", f"Choose one of {', '.join(KINDS)}.")
