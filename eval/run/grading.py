"""Verdicts on responses: reasoning stripped, graded in other processes, each within a hard time limit."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from mi_kernels.errors import MIKernelsError

from ..benchmarks import datasets
from ..schema import Benchmark, Problem, Response, Verdict

if TYPE_CHECKING:
    from pebble import ProcessFuture

LOG = logging.getLogger("eval")
UNREAD = Verdict(correct=False, answer=None)

# math-verify gives up on a parse and on a comparison after 5 s each, by itself; what outlasts this ignores signals.
LIMIT_SECONDS = 30.0

Key = tuple[str, str]


def strip_reasoning(text: str) -> str:
    """What follows the reasoning; the whole text where there is no `</think>`.

    As OpenCompass does: where the chat template opened `<think>`, what follows the last `</think>`; where the text
    holds both, what is left without any `<think>...</think>`.
    """
    if "<think>" not in text and "</think>" in text:
        return text.rpartition("</think>")[2].strip()
    return re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).strip()


def graded_text(role: str, text: str) -> str:
    """What of a response is graded: the Instruct model's has no reasoning to strip."""
    return text if role == "instruct" else strip_reasoning(text)


def grade(
    benchmark: Benchmark,
    role: str,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    workers: int | None = None,
    limit_seconds: float = LIMIT_SECONDS,
) -> list[Verdict]:
    """A verdict for each response, in their order. The same text on the same problem is graded once.

    Workers are spawned, not forked: the parent may hold a GPU and threads. As spawning imports the parent's main
    module, a script that calls this must do so below `if __name__ == "__main__"`.

    Args:
        role: one of `schema.ROLES`.
        workers: processes; None is one for each CPU of this process.
        limit_seconds: of wall time for one response. A grader that takes longer is killed, and its response counts as
            not correct and not read; so do those on which a grader fails or dies. A warning names each.

    Raises:
        MIKernelsError, ImportError: the grader cannot work at all, as where a package is not installed.
        KeyError: a response to a problem that is not among `problems`.
    """
    references = {problem.id: problem.reference for problem in problems}
    keys = [(response.problem, graded_text(role, response.text)) for response in responses]
    wanted = {key: references[key[0]] for key in keys}
    verdicts = _grade_all(benchmark, wanted, workers or _cpus(), limit_seconds)
    return [verdicts[key] for key in keys]


def _grade_all(benchmark: Benchmark, wanted: dict[Key, Any], workers: int, limit: float) -> dict[Key, Verdict]:
    if not wanted:
        return {}
    datasets.need("pebble", "pebble")
    import pebble

    pool = pebble.ProcessPool(
        max_workers=min(workers, len(wanted)),
        initializer=_warm_up,
        initargs=(benchmark.grade, next(iter(wanted.values()))),
        context=multiprocessing.get_context("spawn"),
    )
    try:
        futures = {
            key: pool.schedule(benchmark.grade, args=(reference, key[1]), timeout=limit)
            for key, reference in wanted.items()
        }
        return {key: _verdict(benchmark, key, future, limit) for key, future in futures.items()}
    finally:
        pool.stop()
        pool.join()


def _verdict(benchmark: Benchmark, key: Key, future: ProcessFuture[Verdict], limit: float) -> Verdict:
    try:
        return future.result()
    except (MIKernelsError, BrokenProcessPool, ImportError):  # not of this response alone
        raise
    except FutureTimeout:
        reason = f"was not graded within {limit:g} s"
    except Exception as error:  # one odd response must not cost the others their verdicts
        # Its message may quote the text, and a private benchmark's text its question: only the kind is told.
        reason = f"could not be graded ({type(error).__name__})"
    LOG.warning("%s: a response to problem %s %s: it counts as not correct", benchmark.name, key[0], reason)
    return UNREAD


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _warm_up(grade_one: Callable[[Any, str], Verdict], reference: Any) -> None:
    """Loads what the grader needs before its first time limit runs."""
    try:
        grade_one(reference, "")
    except Exception as error:
        # Every response will meet it again, where it is told; a failing initializer would only break the pool.
        LOG.debug("the grader cannot start: %s", type(error).__name__)
