"""What the GPU code must reach, compared with what the steps measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .contestants import IN_PLACE, OUT_OF_PLACE, XOR

BACKENDS = ("cuda", "triton")
DENSE, EXPERTS = "4B", "30B-A3B"
Results = Mapping[str, Mapping[str, Any]]  # of steps, by name


class Goal(NamedTuple):
    """One goal.

    Attributes:
        what: its name.
        bound: the value to reach.
        found: the measured value; None if it was not measured.
        at_most: the value must not exceed the bound, instead of reaching it.
    """

    what: str
    bound: float
    found: float | None
    at_most: bool = False

    def row(self, measured: bool) -> dict[str, Any]:
        value = self.found if measured else None
        met = None if value is None else value <= self.bound if self.at_most else value >= self.bound
        return {"what": self.what, "at_most" if self.at_most else "at_least": self.bound, "found": value, "met": met}


def wanted(steps: Results, measured: bool) -> list[dict[str, Any]]:
    """Each goal: its name, the bound, the measured value, and whether it is met; None if not measured.

    Args:
        steps: the results of the steps that passed. Where both were run, the long step counts and not the quick one.
        measured: False for a dry run, whose figures mean nothing.
    """
    goals = [*(goal for name in BACKENDS for goal in _of_backend(steps, name))]
    knob = steps.get("set-lam", {}).get("set_lam")
    goals.append(Goal("set_lam of Qwen3-4B, synchronised: ms", 10, knob and knob["host"]["median"] * 1e3, True))
    ties = _first(steps, "methods", "quick-methods").get("methods", {}).get("ties", {})
    goals.append(Goal("TIES: of the roofline of its bytes", 0.5, _median(ties.get("of_roofline"))))
    return [goal.row(measured) for goal in goals]


def _of_backend(steps: Results, name: str) -> list[Goal]:
    goals = []
    for model, share in ((DENSE, 0.95), (EXPERTS, 0.90)):
        results = _first(steps, f"memory-{model}", f"quick-{model}").get("results", {})
        ours = results.get(name, {})
        label = f"{name}, Qwen3-{model}"
        goals.append(Goal(f"{label}: of two reads and a write", share, _median(ours.get(f"of_{XOR}"))))
        if model == DENSE:
            goals.append(Goal(f"{label}: times naive", 2.5, _times(ours, [results.get("naive")])))
            fused = [results.get(IN_PLACE), results.get(OUT_OF_PLACE)]
            goals.append(Goal(f"{label}: times _foreach_lerp", 1.0, _times(ours, fused)))
    pairs = steps.get(f"pairs-{name}", steps.get("pairs", {}).get(name, {}))
    goals.append(Goal(f"{name}, all pairs of bf16: differing", 0, pairs.get("differing"), True))
    files = steps.get("files-tmpfs") or {}
    share = files.get("of_slowest", {}).get(name)
    goals.append(Goal(f"{name}, file to file on tmpfs: of the slowest link", 0.8, _median(share)))
    return goals


def _first(steps: Results, *names: str) -> Mapping[str, Any]:
    return next((steps[name] for name in names if steps.get(name)), {})


def _median(spread: Mapping[str, float] | None) -> float | None:
    return None if spread is None else spread["median"]


def _times(ours: Mapping[str, Any], others: Sequence[Mapping[str, Any] | None]) -> float | None:
    """How many times as long the fastest of some contestants takes."""
    seconds = [other["kernel"]["median"] for other in others if other]
    if not ours or not seconds:
        return None
    return float(min(seconds) / ours["kernel"]["median"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The goals as lines of text."""
    text = [f"{'':<58}{'wanted':>10}{'measured':>14}"]
    for row in rows:
        bound = f"<= {row['at_most']:g}" if "at_most" in row else f">= {row['at_least']:g}"
        value = "not measured" if row["found"] is None else f"{row['found']:.3f}"
        mark = {None: "", True: "  met", False: "  NOT MET"}[row["met"]]
        text.append(f"{row['what']:<58}{bound:>10}{value:>14}{mark}")
    return "\n".join(text)
