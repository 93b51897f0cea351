"""Faults made by hand, each with the tests that must notice it: `python tools/mutants.py` puts them in one at a time.

A fault is one replacement in one file, such as somebody might make by mistake. What the tests do not notice is a hole
in the proof. Add a fault here when a defect is fixed whose return the tests should notice.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

AREAS = ("publishing", "cards", "messages", "inputs", "matching", "kernels", "evaluation", "serving")


class Fault(NamedTuple):
    """One replacement, and the tests that fail with it.

    Attributes:
        name: unique, in lower case with hyphens; says what is wrong then.
        file: relative to the top of the repository.
        old: text that occurs exactly once in `file`.
        new: what stands there instead.
        tests: files or node ids for pytest; at least one of their tests fails.
        harmless: why nothing needs to fail, where the fault changes nothing that matters. Empty for all others.
        ci: part of the slice that CI runs: its tests take seconds.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    harmless: str = ""
    ci: bool = False


def all_faults() -> dict[str, list[Fault]]:
    """The faults of each area."""
    return {area: list(import_module(f"{__name__}.{area}").FAULTS) for area in AREAS}
