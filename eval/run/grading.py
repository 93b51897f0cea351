"""Grades responses without their reasoning, in other processes, each within a hard time limit."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from typing import TYPE_CHECKING, Any

from mi_kernels.errors import MIKernelsError

from ..benchmarks import datasets
from ..schema import Benchmark, Problem, Response, Verdict

if TYPE_CHECKING:
    from pebble import ProcessFuture

LOG = logging.getLogger("eval")
UNREAD = Verdict(correct=False, answer=None)

# math-verify's own limits are 5 s for parsing and 5 s for comparing; they rely on signals, which some code ignores.
LIMIT_SECONDS = 30.0

Key = tuple[str, str]


def strip_reasoning(text: str) -> str:
    """The text after the reasoning, or the whole text if it has no `</think>`.

    As in OpenCompass: if the chat template opened `<think>`, the text after the last `</think>`; if the text itself
    has both tags, the text without every `<think>...</think>`.
    """
    if "<think>" not in text and "</think>" in text:
        return text.rpartition("</think>")[2].strip()
    return re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).strip()


def graded_text(role: str, text: str) -> str:
    """The part of a response that is graded. Responses of Instruct models have no reasoning to remove."""
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
    """A verdict for each response, in order. Equal texts for one problem are graded once.

    Workers are spawned, not forked, because the parent may use a GPU and threads. Spawning imports the parent's main
    module, so a script must call this below `if __name__ == "__main__"`.

    Args:
        role: one of `schema.ROLES`.
        workers: number of processes; None means one for each CPU of this process.
        limit_seconds: wall time for one response. A grader that takes longer is killed. Its response counts as wrong
            and unparsed, as do responses for which the grader fails or dies. A warning names each of them.

    Raises:
        MIKernelsError, ImportError: the grader cannot work at all, for example because a package is missing.
        KeyError: a response belongs to a problem that is not in `problems`.
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
    with _pool(benchmark, min(workers, len(wanted)), next(iter(wanted.values()))) as pool:
        futures = {
            key: pool.schedule(benchmark.grade, args=(reference, key[1]), timeout=limit)
            for key, reference in wanted.items()
        }
        return {key: _verdict(benchmark, key, future, limit) for key, future in futures.items()}


_KEPT: list[dict[tuple[Any, ...], tuple[Any, Any]]] = []  # of each `keeping_pools`: pools with their contexts


@contextmanager
def keeping_pools() -> Iterator[None]:
    """Keeps the processes of a grader for all calls of `grade` within, because starting them takes a second or more."""
    kept: dict[tuple[Any, ...], tuple[Any, Any]] = {}
    _KEPT.append(kept)
    try:
        yield
    finally:
        _KEPT.remove(kept)
        for pool, _ in kept.values():
            _end(pool)


@contextmanager
def _pool(benchmark: Benchmark, workers: int, reference: Any) -> Iterator[Any]:
    """A pool of `workers` processes that have loaded the grader. A pool that raised an error is not kept."""
    import pebble

    kept = _KEPT[-1] if _KEPT else {}
    key = (benchmark.grade, workers)
    pool, context = kept.pop(key, (None, None))
    if pool is None or not pool.active:
        context = _KeptLocks()
        pool = pebble.ProcessPool(
            max_workers=workers, initializer=_warm_up, initargs=(benchmark.grade, reference), context=context
        )
    try:
        yield pool
    except BaseException:
        _end(pool)
        raise
    if _KEPT:
        kept[key] = (pool, context)
    else:
        _end(pool)


def _end(pool: Any) -> None:
    pool.stop()
    pool.join()


class _KeptLocks(SpawnContext):
    """Keeps the locks that a pool creates for as long as this object lives.

    A pool that is stopped drops its locks before it stops its workers, which deletes their names. A worker that is
    still starting then does not find them, and prints a traceback.
    """

    def __init__(self) -> None:
        self._locks: list[Any] = []

    def RLock(self) -> Any:
        lock = super().RLock()
        self._locks.append(lock)
        return lock


def _verdict(benchmark: Benchmark, key: Key, future: ProcessFuture[Verdict], limit: float) -> Verdict:
    try:
        return future.result()
    except (MIKernelsError, BrokenProcessPool, ImportError):  # these concern all responses
        raise
    except FutureTimeout:
        reason = f"was not graded within {limit:g} s"
    except Exception as error:  # one bad response must not stop the grading of the others
        # The message may quote a question of a private benchmark, so only the type of the error is shown.
        reason = f"could not be graded ({type(error).__name__})"
    LOG.warning("%s: a response to problem %s %s: it counts as wrong", benchmark.name, key[0], reason)
    return UNREAD


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _warm_up(grade_one: Callable[[Any, str], Verdict], reference: Any) -> None:
    """Loads what the grader needs before its first time limit starts."""
    try:
        grade_one(reference, "")
    except Exception as error:
        # Grading the first response reports this error; an exception here would only break the pool.
        LOG.debug("the grader cannot start: %s", type(error).__name__)
