"""lam as a knob on a running engine, from the process that holds the engine's handle."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError, MIKernelsError

Answer = dict[str, Any]


class EngineError(MIKernelsError):
    """An engine that must not serve any more: its weights may be neither the old nor the new ones."""


def set_lam(llm: Any, lam: Any, *, layers: Any = None, modules: Any = None, rules: Any = ()) -> Answer:
    """Changes the weights of a `vllm.LLM` to another merge of its two models; the next request answers with them.

    Args:
        llm: made with ``load_format="mi_kernels"`` and the worker extension `LIVE`.
        lam, layers, modules, rules: as in `mi_kernels.Recipe`.

    Returns:
        {"lam", "layers", "modules", "seconds"}: what is served now, and how long the slowest worker took.

    Raises:
        ArgumentError: refused before anything was touched; the engine goes on with what it had.
        EngineError: the change failed midway and could not be undone; the engine answers no more requests.
    """
    answers = llm.collective_rpc("mi_kernels_set", args=(_wanted(lam, layers, modules, rules),))
    answer = _one(answers)
    llm.reset_prefix_cache()
    return answer


async def set_lam_async(
    engine: Any, lam: Any, *, layers: Any = None, modules: Any = None, rules: Any = (), drain: bool = True
) -> Answer:
    """`set_lam` for a `vllm.v1.engine.async_llm.AsyncLLM` with requests in flight.

    No request is scheduled while the weights change. No answer is begun by one model and finished by another.

    Args:
        drain: wait until the requests in flight are answered; False aborts them.
    """
    await engine.pause_generation(mode="wait" if drain else "abort", clear_cache=True)
    try:
        answers = await engine.collective_rpc("mi_kernels_set", args=(_wanted(lam, layers, modules, rules),))
        answer = _one(answers)
        await engine.reset_prefix_cache()
    except EngineError:
        raise  # stays paused: better no answer than a wrong one
    except BaseException:
        await engine.resume_generation()
        raise
    await engine.resume_generation()
    return answer


def _wanted(lam: Any, layers: Any, modules: Any, rules: Any) -> Answer:
    return {"lam": lam, "layers": layers, "modules": modules, "rules": list(rules)}


def _one(answers: list[Answer]) -> Answer:
    """What all workers say."""
    for answer in answers:
        if "broken" in answer:
            raise EngineError(answer["broken"], "Start the engine again.")
    for answer in answers:
        if "refused" in answer:
            raise ArgumentError(*answer["refused"])
    return {**answers[0], "seconds": max(answer["seconds"] for answer in answers)}
