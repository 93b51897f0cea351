"""Read the sweep of a report of `python -m eval`, for the plot of the page. Needs no vLLM."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ...errors import ArgumentError


def read_stages(folder: str) -> list[dict[str, Any]]:
    """Reads the sweeps of a report of `python -m eval`: for each benchmark its points by lam.

    Args:
        folder: of the report, or of the runs that hold it.

    Returns:
        {"title", "points": [{"lam", "mean", "think", "tokens"}]}. Shares are from 0 to 1.

    Raises:
        ArgumentError: there is no report, or none of its families has a sweep.
    """
    path = next(
        (
            p
            for p in (os.path.join(folder, "report.json"), os.path.join(folder, "report", "report.json"))
            if os.path.isfile(p)
        ),
        None,
    )
    if path is None:
        raise ArgumentError(
            f"--ui {folder}: has no report.json", "Give the report of a sweep, as `python -m eval report` writes it."
        )
    try:
        with open(path, encoding="utf-8") as file:
            families = json.load(file)["families"]
        sweeps = [_sweep(b) for family in families for b in family["benchmarks"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(
            f"{path}: cannot be read: {type(error).__name__}: {error}",
            "Write the report again: `python -m eval report`.",
        ) from error
    found = [sweep for sweep in sweeps if len(sweep["points"]) > 1]
    if not found:
        raise ArgumentError(f"{path}: has no sweep over lam", "Give the report of a sweep.")
    return found


def _sweep(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    points = [
        {"lam": model["lam"], **{name: model[name]["value"] for name in ("mean", "think", "tokens")}}
        for model in benchmark["models"]
        if model["lam"] is not None and model["kind"] in ("instruct", "interpolation", "thinking")
    ]
    return {"title": benchmark["title"], "points": sorted(points, key=lambda point: point["lam"])}
