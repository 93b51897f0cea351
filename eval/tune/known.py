"""The points of an earlier `eval sweep` with the same settings, which a search does not evaluate again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from ..analysis import metrics
from ..errors import EvalError
from ..run.files import load_run, load_scores
from ..run.settings import Part
from ..schema import Scores
from .resampled import Measured

Known = Mapping[float, Measured]  # by lam


def load(folder: str, instruct: str, thinking: str, lams: Sequence[float], parts: Sequence[Part]) -> Known:
    """The points of the sweep in `folder` that were run as this search runs its candidates.

    lam 0 is not among them: a sweep evaluates INSTRUCT with its own sampling and template there.

    Args:
        parts: the benchmarks with all their problems and the settings of merged models.

    Raises:
        EvalError: `folder` holds no sweep of this pair without masks, or no point can be used.
    """
    path = os.path.join(folder, "sweep.json")
    try:
        with open(path, encoding="utf-8") as file:
            pair = json.load(file)
        masked = pair.get("layers") is not None or pair.get("modules") is not None
        same = all(_same(pair[k], v) for k, v in (("instruct", instruct), ("thinking", thinking)))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise EvalError(
            f"{path}: is not the record of a sweep: {error}", "Give the folder of `eval sweep`, or leave out --sweep."
        ) from error
    if masked or not same:
        what = "a sweep with masks" if masked else "a sweep of another pair"
        raise EvalError(f"{folder}: holds {what}", "Leave out --sweep: the search evaluates its own points.")
    found, reasons = {}, []
    for lam in lams:
        try:
            found[lam] = {part.benchmark.name: _point(os.path.join(folder, f"lam-{lam:g}"), part) for part in parts}
        except (OSError, EvalError) as error:
            reasons.append(f"lam {lam:g}: {_reason(error)}")
    if not found:
        raise EvalError(f"{folder}: no point of the sweep can be used: {reasons[0]}", "Leave out --sweep.")
    return found


def _same(recorded: str, given: str) -> bool:
    return recorded == given or os.path.realpath(recorded) == os.path.realpath(given)


def _reason(error: Exception) -> str:
    return error.problem if isinstance(error, EvalError) else f"{getattr(error, 'filename', '')} is missing"


def _point(folder: str, part: Part) -> Scores:
    run, name = load_run(folder), part.benchmark.name
    setting, wanted = run.settings.get(name), part.setting
    if run.role == "instruct":
        raise EvalError("is INSTRUCT with its own sampling")
    if setting is None:
        raise EvalError(f"{name} was not evaluated")
    if setting.digest != wanted.digest or setting.sampling != wanted.sampling:
        raise EvalError(f"{name} was evaluated with other problems or another sampling")
    if setting.samples < wanted.samples:
        raise EvalError(f"{name} has {setting.samples} samples to each problem, not {wanted.samples}")
    return load_scores(folder, name)


def restricted(scores: Scores, ids: Sequence[str]) -> Scores:
    """The scores on some of the problems. Pass@k, Vote@k and other gradings are left out."""
    by_id = {p.id: p for p in scores.problems}
    return metrics.summary(scores.benchmark, [by_id[i] for i in ids])
