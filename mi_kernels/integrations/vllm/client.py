"""Change lam of a running vLLM engine, from the process that holds the engine's handle."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError, MIKernelsError

Answer = dict[str, Any]


class EngineError(MIKernelsError):
    """The engine must not serve any more, because its weights may be neither the old nor the new ones."""


def set_lam(llm: Any, lam: Any, *, layers: Any = None, modules: Any = None, rules: Any = ()) -> Answer:
    """Changes the weights of a `vllm.LLM` to another merge of its two models. The next request uses them.

    Args:
        llm: created with ``load_format="mi_kernels"`` and ``worker_extension_cls=LIVE``, and with "live": True in
            ``model_loader_extra_config``.
        lam: the weight of THINKING, from 0 to 1.
        layers, modules, rules: as in `mi_kernels.Recipe`.

    Returns:
        A dict with the recipe that is served now ("lam", and "layers", "modules", "rules" if given), and with
        "seconds", the time that the slowest worker took.

    Raises:
        ArgumentError: the change was rejected. No weight has changed, and the engine serves the previous merge.
        EngineError: the change failed midway. The engine answers no more requests.

    Example:
        from vllm import LLM
        from mi_kernels.integrations.vllm import LIVE, set_lam

        config = {"other": "thinking", "lam": 0.8, "live": True}
        llm = LLM("instruct", load_format="mi_kernels", worker_extension_cls=LIVE, model_loader_extra_config=config)
        set_lam(llm, 0.55)
    """
    answers = llm.collective_rpc("mi_kernels_set", args=(_wanted(lam, layers, modules, rules),))
    answer = _one(answers)
    llm.reset_prefix_cache()
    return answer


async def set_lam_async(
    engine: Any, lam: Any, *, layers: Any = None, modules: Any = None, rules: Any = (), drain: bool = True
) -> Answer:
    """Changes lam like `set_lam`, for a `vllm.v1.engine.async_llm.AsyncLLM` with requests in flight.

    No request is scheduled while the weights change, and no answer mixes tokens of two merges.

    Args:
        engine: created with the same arguments as `llm` of `set_lam`.
        lam, layers, modules, rules: as for `set_lam`.
        drain: True waits until the requests in flight are answered; False aborts them.

    Returns:
        As `set_lam`.

    Raises:
        ArgumentError, EngineError: as `set_lam`. After an EngineError the engine stays paused.
    """
    await engine.pause_generation(mode="wait" if drain else "abort", clear_cache=True)
    try:
        answers = await engine.collective_rpc("mi_kernels_set", args=(_wanted(lam, layers, modules, rules),))
        answer = _one(answers)
        await engine.reset_prefix_cache()
    except EngineError:
        raise  # the engine stays paused: no answer is better than a wrong one
    except BaseException:
        await engine.resume_generation()
        raise
    await engine.resume_generation()
    return answer


def _wanted(lam: Any, layers: Any, modules: Any, rules: Any) -> Answer:
    return {"lam": lam, "layers": layers, "modules": modules, "rules": list(rules)}


def _one(answers: list[Answer]) -> Answer:
    """Combines the answers of all workers into one.

    Raises:
        EngineError: a worker is broken.
        ArgumentError: a worker rejected the change.
    """
    for answer in answers:
        if "broken" in answer:
            raise EngineError(answer["broken"], "Restart the engine.")
    for answer in answers:
        if "refused" in answer:
            raise ArgumentError(*answer["refused"])
    return {**answers[0], "seconds": max(answer["seconds"] for answer in answers)}
