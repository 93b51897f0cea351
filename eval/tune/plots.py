"""The pictures of a search. Each function returns an image as {"svg": bytes, "png": bytes}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..report import labels
from ..report.style import BLUE, GREY, INK, VERMILION, encoded, fit_width, style, wrapped
from ..schema import Interval
from .outcome import Candidate, Outcome

_PANEL = "#F6F6F6"


def fronts(title: str, outcome: Outcome) -> dict[str, bytes]:
    """Mean@k against tokens on problems that the search has not seen: its front, and the plain sweep beside it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    every = outcome.candidates
    with style():
        figure = Figure(figsize=(6.2, 5.0), layout="constrained")
        axis = figure.subplots()
        axis.set_facecolor(_PANEL)
        axis.grid(axis="both")
        sweep = sorted((c for c in every if c.lam is not None), key=lambda c: c.lam or 0.0)
        axis.plot(*_line(sweep), color=GREY, linewidth=1.4, linestyle=":", zorder=1)
        for c in sweep:
            _point(axis, c, GREY, "o", 6)
        found = [c for c in every if c.lam is None]
        for c in found:
            _point(axis, c, BLUE, "D", 7)
        front = [every[i] for i in outcome.front]
        axis.step(*_line(front), where="post", color=BLUE, linewidth=1.4, linestyle="--", zorder=1)
        best = every[outcome.recommended]
        axis.plot(*_line([best]), "o", markersize=16, markerfacecolor="none", markeredgecolor=VERMILION, zorder=5)
        axis.plot([], [], "o:", color=GREY, label="plain interpolation, with its lam")
        axis.plot([], [], "D", color=BLUE, label="found by the search")
        axis.plot([], [], "--", color=BLUE, label="front of all")
        axis.plot([], [], "o", markersize=12, markerfacecolor="none", markeredgecolor=VERMILION, label="recommended")
        if outcome.prepared.plan.budget:
            axis.axvline(outcome.prepared.plan.budget, color=INK, linewidth=1, linestyle="-.", label="budget")
        axis.set(xlabel="tokens per answer (mean)", ylabel="Mean@k (%)")
        axis.margins(0.1)
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        _title(figure, title)
        named = [(_short(c), (c.tokens.value, 100 * c.mean.value)) for c in [*sweep, *found]]
        labels.place(figure, axis, named, size=10)
        return encoded(figure)


def history(title: str, outcome: Outcome) -> dict[str, bytes]:
    """The hypervolume on the problems of the search after each candidate."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(6.2, 3.4), layout="constrained")
        axis = figure.subplots()
        axis.set_facecolor(_PANEL)
        numbers = np.arange(1, len(outcome.history) + 1)
        axis.step(numbers, outcome.history, where="post", color=BLUE, label="all candidates so far")
        axis.axhline(outcome.plain_history, color=GREY, linestyle=":", label="the plain sweep")
        axis.set(xlabel="candidates evaluated", ylabel="hypervolume")
        axis.legend(loc="lower right")
        _title(figure, title)
        return encoded(figure)


def heat_map(title: str, modules: Sequence[str], layers: Sequence[str], table: Any) -> dict[str, bytes]:
    """Weights by module (down) and layer (across); cells without tensors are hatched.

    Args:
        table: [modules, layers], NaN where there are no tensors.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    values = np.asarray(table, dtype=np.float64)
    with style():
        wide = min(12.0, 2.4 + 0.42 * len(layers))
        figure = Figure(figsize=(max(4.6, wide), 1.7 + 0.42 * len(modules)), layout="constrained")
        axis = figure.subplots()
        axis.grid(visible=False)
        image = axis.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto", vmin=0, vmax=1, zorder=1)
        for row, column in np.argwhere(np.isnan(values)):
            hatched = {"facecolor": "0.97", "hatch": "////", "edgecolor": "0.8", "linewidth": 0, "zorder": 2}
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **hatched))
        if len(layers) <= 20:
            for row, column in np.argwhere(~np.isnan(values)):
                value = values[row, column]
                color = "white" if value < 0.55 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9, zorder=3)
        every = max(1, len(layers) // 18)
        shown = [i for i in range(len(layers)) if i % every == 0 or not layers[i].isdigit()]
        axis.set_xticks(shown, [layers[i] for i in shown])
        axis.set_yticks(range(len(modules)), modules)
        axis.set(xlabel="layer")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        figure.colorbar(image, ax=axis, label="weight of Thinking").outline.set_visible(False)
        _title(figure, title)
        return encoded(figure)


def _line(candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    return [c.tokens.value for c in candidates], [100 * c.mean.value for c in candidates]


def _point(axis: Any, candidate: Candidate, color: str, marker: str, size: int) -> None:
    def ends(value: Interval, unit: float) -> list[list[float]]:
        return [[unit * max(value.value - value.low, 0)], [unit * max(value.high - value.value, 0)]]

    axis.errorbar(
        candidate.tokens.value,
        100 * candidate.mean.value,
        xerr=ends(candidate.tokens, 1),
        yerr=ends(candidate.mean, 100),
        marker=marker,
        markersize=size,
        color=color,
        ecolor="#C9C9C9",
        elinewidth=0.9,
        markeredgecolor=INK,
        markeredgewidth=0.6,
        linestyle="none",
        zorder=3,
    )


def _short(candidate: Candidate) -> str:
    return f"{candidate.lam:g}" if candidate.lam is not None else f"#{candidate.number}"


def _title(figure: Any, title: str) -> None:
    text = figure.suptitle("", fontsize=13, x=0.01, ha="left", parse_math=False)
    fit_width(text, 0.97 * figure.bbox.width, wrapped(title))
