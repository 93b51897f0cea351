"""Graders that misbehave, where the processes of a pool can import them."""

from __future__ import annotations

import os
import signal

from eval.errors import DataError
from eval.schema import Benchmark, Verdict


def misbehave(reference: str, text: str) -> Verdict:
    """Hangs deaf to alarms, dies, fails, or grades, as `text` says."""
    if text == "hang":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True:
            pass
    if text == "die":
        os._exit(3)
    if text == "fail":
        raise ValueError("the text is: fail")
    return Verdict(text == reference, text or None, {"paper": True})


def process(reference: str, text: str) -> Verdict:
    """The answer is the process that graded."""
    return Verdict(correct=False, answer=str(os.getpid()))


def refuse(reference: str, text: str) -> Verdict:
    """Finds that it cannot work, and says so in the way that `reference` asks for."""
    if reference == "import":
        raise ModuleNotFoundError("there is no checker")
    raise DataError("there is no checker", "Install it.")


def benchmark(**changes: object) -> Benchmark:
    """A benchmark of plain comparison, to be changed at will."""
    given: dict[str, object] = {
        "name": "plain",
        "title": "Plain",
        "samples": 2,
        "max_tokens": 8,
        "load": lambda where: [],
        "grade": misbehave,
        "ks": (1, 2, 4),
    }
    return Benchmark(**{**given, **changes})  # type: ignore[arg-type]
