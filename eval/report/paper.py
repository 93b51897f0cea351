"""The figures of "Revisiting Model Interpolation for Efficient Reasoning" (arXiv 2510.10977), for comparison with ours.

paper.csv contains its Tables 2 to 5 and Figure 5, in per cent. A run is matched by the names of the models that were
merged and by the method, never by the name of the run.
"""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Mapping

from mi_kernels.errors import MIKernelsError
from mi_kernels.recipe.masks import parse_layers

from ..schema import Setting
from .collect import Entry, Pair, model_name

CITATION = "Wu et al., Revisiting Model Interpolation for Efficient Reasoning, arXiv 2510.10977"
# By benchmark: problems, samples of each, limit of new tokens.
SETTINGS = {"aime25": (30, 64, 81920), "ifeval": (541, 8, 65536), "gpqa": (198, 8, 65536)}

_LAYERS = 36  # of Qwen3-4B, whose layers Table 3 masks
# The settings of docs/recipes.md; with other settings it is another model.
_METHODS = {
    "task_arithmetic": ("TA", {"scale": 0.7}),
    "ties": ("TIES", {"density": 0.2, "scale": 0.5}),
}
_HYBRID = {"Qwen3-4B-Instruct-2507": "Qwen3-4B", "Qwen3-30B-A3B-Instruct-2507": "Qwen3-30B-A3B"}


def figures(entry: Entry, pair: Pair | None, benchmark: str) -> Mapping[str, float] | None:
    """The paper's figures for this model: mean, pass, vote, think, pass8, pass32 in per cent, and tokens.

    Figures that the paper does not give are absent; None if the paper does not have this model.
    """
    variant = _variant(entry, pair)
    if variant is None:
        return None
    found: dict[str, float] = {}
    for row in _rows():
        if entry.kind in ("instruct", "thinking"):
            same = row[entry.kind] == entry.model
        else:
            same = (row["instruct"], row["thinking"]) == pair
        if same and row["variant"] == variant and row["benchmark"] == benchmark:
            # Table 2 comes before Table 3, which gives the same models with more digits and more of Pass@k.
            new = {k: float(v) for k, v in row.items() if v and k in _FIGURES}
            found = {**new, **found}
    return found or None


def differences(benchmark: str, setting: Setting) -> list[str]:
    """The differences of a setting from the paper's, in sentences. With any, the figures are not comparable."""
    if benchmark not in SETTINGS:
        return []
    problems, samples, limit = SETTINGS[benchmark]
    found = [
        f"{name} {mine:,} (the paper: {theirs:,})"
        for name, mine, theirs in (
            ("problems", setting.problems, problems),
            ("samples", setting.samples, samples),
            ("max_tokens", setting.sampling.max_tokens, limit),
        )
        if mine != theirs
    ]
    return [f"Not the paper's setting: {', '.join(found)}."] if found else []


_FIGURES = ("mean", "pass", "vote", "tokens", "think", "pass8", "pass32")


@functools.cache
def _rows() -> list[dict[str, str]]:
    with open(os.path.join(os.path.dirname(__file__), "paper.csv"), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _variant(entry: Entry, pair: Pair | None) -> str | None:
    """The paper's name for a model."""
    record = entry.record
    if entry.kind in ("instruct", "thinking"):
        return entry.kind.capitalize()
    if entry.kind == "interpolation":
        return f"MI-{entry.lam:g}"
    if entry.kind == "ablation":
        return _ablation(record)
    name, settings = _METHODS.get(str(record.get("method")), (None, {}))
    base = record.get("base")
    given = record.get("settings") or {}
    if name is None or pair is None or not isinstance(base, dict) or record.get("layers") or record.get("modules"):
        return None
    if {key: given.get(key) for key in settings} != settings:
        return None
    start = model_name(str(base.get("source")))
    return {_HYBRID.get(pair[0]): name, f"{_HYBRID.get(pair[0])}-Base": f"{name}-Base"}.get(start)


def _ablation(record: Mapping[str, object]) -> str | None:
    layers, modules, lam = record.get("layers"), record.get("modules"), record.get("lam")
    if not isinstance(lam, (int, float)) or bool(layers) == bool(modules) or record.get("rules"):
        return None
    if modules:
        chosen = set(str(modules).replace(" ", "").split(","))
        without = {"attn", "ffn"} - chosen
        return f"MI-{lam:g} without {without.pop()}" if len(without) == 1 and {"norm", "embed"} <= chosen else None
    try:
        numbers = sorted(parse_layers(layers if isinstance(layers, int) else str(layers), _LAYERS))
    except MIKernelsError:
        return None
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"MI-{lam:g} layers {numbers[0]}:{numbers[-1] + 1}" if whole else None
