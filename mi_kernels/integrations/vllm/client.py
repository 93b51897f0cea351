"""Change lam of a running vLLM engine, from the process that holds the engine's handle.

An engine may have several workers. All of them check a change before the first one makes it, so that a change is
rejected by all or made by all. If a worker fails during a change, all of them stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from ...errors import ArgumentError, MIKernelsError
from ...recipe.masks import show_masks

Answer = dict[str, Any]


class EngineError(MIKernelsError):
    """The engine must not serve any more, because its weights may be neither the old nor the new ones."""


class NotLiveError(ArgumentError):
    """The engine was not started in a way that lets lam change."""


class FilesChangedError(NotLiveError):
    """The engine cannot change lam any more, because files of its models were removed, written or replaced."""


def set_lam(llm: Any, lam: Any, *, layers: Any = None, modules: Any = None, rules: Any = ()) -> Answer:
    """Changes the weights of a `vllm.LLM` to another merge of its two models. The next request uses them.

    Args:
        llm: created with ``load_format="mi_kernels"`` and ``worker_extension_cls=LIVE``, and with "live": True in
            ``model_loader_extra_config``.
        lam: the weight of THINKING, from 0 to 1; any number if the engine was started with "extrapolate": True.
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
    wanted = _wanted(lam, layers, modules, rules)
    _require_accepted(llm.collective_rpc("mi_kernels_check", args=(wanted,)), wanted)
    try:
        answers = llm.collective_rpc("mi_kernels_set", args=(wanted,))
        failure = _failure(answers)
    except Exception as error:
        failure = _unknown(error)
    if failure:
        _stopped(failure, lambda: llm.collective_rpc("mi_kernels_stop", args=(failure,)))
    llm.reset_prefix_cache()
    return _merged(answers)


async def set_lam_async(
    engine: Any, lam: Any, *, layers: Any = None, modules: Any = None, rules: Any = (), drain: bool = True
) -> Answer:
    """Changes lam like `set_lam`, for a `vllm.v1.engine.async_llm.AsyncLLM` with requests in flight.

    No request is scheduled while the weights change, and no answer mixes tokens of two merges. Cancelling the caller
    does not interrupt a change that has begun.

    Args:
        engine: created with the same arguments as `llm` of `set_lam`.
        lam, layers, modules, rules: as for `set_lam`.
        drain: True waits until the requests in flight are answered; False aborts them.

    Returns:
        As `set_lam`.

    Raises:
        ArgumentError, EngineError: as `set_lam`. After an EngineError the engine stays paused.
    """
    wanted = _wanted(lam, layers, modules, rules)
    await engine.pause_generation(mode="wait" if drain else "abort", clear_cache=True)
    try:
        _require_accepted(await engine.collective_rpc("mi_kernels_check", args=(wanted,)), wanted)
    except EngineError:
        raise  # the engine stays paused: no answer is better than a wrong one
    except BaseException:
        await engine.resume_generation()
        raise
    return await asyncio.shield(_change(engine, wanted))


async def _change(engine: Any, wanted: Answer) -> Answer:
    """Changes the weights of a paused engine that has accepted the change. Resumes it unless the change fails."""
    try:
        answers = await engine.collective_rpc("mi_kernels_set", args=(wanted,))
        failure = _failure(answers)
        if not failure:
            await engine.reset_prefix_cache()
    except Exception as error:
        failure = _unknown(error)
    if failure:
        await _stopped_async(failure, lambda: engine.collective_rpc("mi_kernels_stop", args=(failure,)))
    await engine.resume_generation()
    return _merged(answers)


def _wanted(lam: Any, layers: Any, modules: Any, rules: Any) -> Answer:
    return {"lam": lam, "layers": layers, "modules": modules, "rules": list(rules)}


def _require_accepted(answers: list[Answer], wanted: Answer) -> None:
    """Checks what all workers answered to `mi_kernels_check`.

    Raises:
        EngineError: a worker is broken.
        NotLiveError: the engine cannot change lam at all.
        FilesChangedError: the engine cannot change lam any more.
        ArgumentError: a worker rejected the change, or a mask selects no tensor of any worker.
    """
    for answer in answers:
        if "broken" in answer:
            raise EngineError(answer["broken"], "Restart the engine.")
    for answer in answers:
        if "changed" in answer:
            raise FilesChangedError(*answer["changed"])
        if "fixed" in answer:
            raise NotLiveError(*answer["fixed"])
        if "refused" in answer:
            raise ArgumentError(*answer["refused"])
    for number, selected in enumerate(zip(*(answer["selected"] for answer in answers))):
        if not any(selected):
            masks = wanted["rules"][number - 1] if number else wanted
            shown = show_masks(masks.get("layers"), masks.get("modules"))
            raise ArgumentError(
                f"{f'rule {number}: ' if number else ''}{shown} select tensors of the checkpoints, but no parameter "
                "that vLLM has loaded",
                "Select other layers or modules.",
            )


def _failure(answers: list[Answer]) -> str:
    """Returns what each worker did if one of them did not change; otherwise nothing."""
    states = [
        answer.get("broken") or (": ".join(answer["refused"][:1]) if "refused" in answer else "") for answer in answers
    ]
    if not any(states):
        return ""
    if len(states) == 1:
        return states[0]
    shown = [f"worker {i}: {state or 'has changed'}" for i, state in enumerate(states)]
    return f"not all workers have changed, and this engine has stopped; {'; '.join(shown)}"


def _unknown(error: Exception) -> str:
    return f"a change of the weights was not confirmed, so they may belong to neither model: {error}"


def _stopped(failure: str, stop: Callable[[], Any]) -> NoReturn:
    """Stops the workers that can be reached, and raises the error."""
    try:
        stop()
    except Exception as error:
        failure += f"; not all workers could be stopped ({error})"
    raise EngineError(failure, "Restart the engine.")


async def _stopped_async(failure: str, stop: Callable[[], Awaitable[Any]]) -> NoReturn:
    try:
        await stop()
    except Exception as error:
        failure += f"; not all workers could be stopped ({error})"
    raise EngineError(failure, "Restart the engine.")


def _merged(answers: list[Answer]) -> Answer:
    """Combines the answers of all workers into one."""
    return {**answers[0], "seconds": max(answer["seconds"] for answer in answers)}
