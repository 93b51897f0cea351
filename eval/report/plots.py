"""Draws the pictures of a report. Each function returns an image as {"svg": bytes, "png": bytes}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..analysis.stages import Stages
from ..schema import Interval, Scores
from . import labels
from .style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    STAGES,
    VERMILION,
    encoded,
    fit_width,
    short_name,
    style,
    wrapped,
)

_LONGEST_NAME = 24  # characters beside a point: half the width of the plot

Points = Sequence[tuple[float, Scores]]
Figures = Mapping[float, Mapping[str, float]]  # by lam, as `paper.figures` gives them


def dynamics(title: str, points: Points, stages: Stages, second: str, theirs: Figures) -> dict[str, bytes]:
    """Accuracy, Think #R and tokens against lam, with the stages shaded in all three.

    Args:
        points: (lam, scores) by lam. second: "Pass" or "Vote", drawn with Mean.
        theirs: the paper's figures of the same models.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.8, 7.6), layout="constrained")
        performance, think, tokens = figure.subplots(3, 1, sharex=True)
        lams, scores = [lam for lam, _ in points], [s for _, s in points]
        n = scores[0].samples
        for axis in (performance, think, tokens):
            _shade(axis, stages, lams)
        _measured(performance, lams, [s.mean for s in scores], 100, BLUE, "o", f"Mean@{n}")
        seconds = [(s.votes if second == "Vote" else s.passes).get(n) for s in scores]
        if all(seconds):
            _measured(performance, lams, [s for s in seconds if s], 100, ORANGE, "s", f"{second}@{n}")
        if stages.curve is not None:
            fine = np.linspace(lams[0], lams[-1], 401)
            think.plot(fine, 100 * stages.curve.share(fine)[0], color=GREEN, linewidth=1.6, label="logistic fit")
        _measured(think, lams, [s.think for s in scores], 100, GREEN, "o", "measured", line=stages.curve is None)
        _measured(tokens, lams, [s.tokens for s in scores], 1, VERMILION, "o", "mean")
        _papers(performance, theirs, "mean", 1)
        _papers(think, theirs, "think", 1)
        _papers(tokens, theirs, "tokens", 1)
        performance.set_ylabel("accuracy (%)")
        think.set(ylabel="Think #R (%)", ylim=(-5, 105))
        tokens.set(ylabel="tokens per answer", xlabel="lam:  0 is Instruct, 1 is Thinking")
        tokens.set_ylim(bottom=0)
        tokens.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        margin = 0.03 * (lams[-1] - lams[0] or 1)
        performance.set_xlim(lams[0] - margin, lams[-1] + margin)
        for axis in (performance, think, tokens):
            if len(axis.get_legend_handles_labels()[0]) > 1:
                _legend(axis)
        _name_stages(performance, stages, lams)
        _title(figure, title)
        return encoded(figure)


def masks(title: str, curves: Mapping[str, Points]) -> dict[str, bytes]:
    """Accuracy, Think #R and tokens against lam, one curve for each mask; a mask with one lam is a single marker.

    Args:
        curves: (lam, scores) by lam, by the name of the mask in the legend.
    """
    from matplotlib.figure import Figure

    with style():
        rows = -(-len(curves) // 2)
        figure = Figure(figsize=(5.8, 7.0 + 0.24 * rows), layout="constrained")
        axes = figure.subplots(3, 1, sharex=True)
        drawn = list(enumerate(curves.items()))
        drawn.sort(key=lambda curve: len(curve[1][1]) == 1)  # single markers lie over the curves
        for number, (mask, points) in drawn:
            lams, scores = [lam for lam, _ in points], [s for _, s in points]
            kinds = (([s.mean for s in scores], 100), ([s.think for s in scores], 100), ([s.tokens for s in scores], 1))
            color, marker = _CURVES[number % len(_CURVES)], _SHAPES[number % len(_SHAPES)]
            for axis, (values, unit) in zip(axes, kinds):
                _measured(axis, lams, values, unit, color, marker, short_name(mask, _LONGEST_MASK))
                axis.containers[-1].lines[0].set_zorder(3 + (len(lams) == 1))  # above all error bars
        axes[0].set_ylabel(f"Mean@{next(iter(curves.values()))[0][1].samples} (%)")
        axes[1].set(ylabel="Think #R (%)", ylim=(-5, 105))
        axes[2].set(ylabel="tokens per answer", xlabel="lam of the merged part; the rest is Instruct's")
        axes[2].set_ylim(bottom=0)
        axes[2].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        for axis in axes:
            axis.set_facecolor("#F6F6F6")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)
        _title(figure, title)
        return encoded(figure)


# Seven colours and five shapes: 35 masks until a pair of them repeats.
_CURVES = (BLUE, VERMILION, GREEN, ORANGE, SKY_BLUE, PURPLE, GREY)
_SHAPES = ("o", "s", "^", "D", "v")
_LONGEST_MASK = 26  # characters: two columns of the legend


def _title(figure: Any, title: str) -> None:
    """Writes the title above the plots, in several lines if it is wider than the figure."""
    text = figure.suptitle("", fontsize=13, x=0.01, ha="left", parse_math=False)
    fit_width(text, 0.97 * figure.bbox.width, wrapped(title))


def _legend(axis: Any) -> None:
    """Adds a legend with our results first; matplotlib would put error bars last."""
    handles, names = axis.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: (names[i].startswith("paper"), names[i] == "logistic fit"))
    # Where no place is free, error bars must not run through the words.
    behind = {"frameon": True, "framealpha": 0.85, "facecolor": "white", "edgecolor": "none"}
    axis.legend([handles[i] for i in order], [names[i] for i in order], loc="best", **behind)


def _measured(
    axis: Any,
    lams: Sequence[float],
    values: Sequence[Interval],
    unit: float,
    color: str,
    marker: str,
    label: str,
    *,
    line: bool = True,
) -> None:
    middle = np.array([v.value for v in values]) * unit
    ends = np.array([[v.value - v.low for v in values], [v.high - v.value for v in values]]) * unit
    axis.errorbar(
        lams,
        middle,
        yerr=np.maximum(ends, 0),
        color=color,
        marker=marker,
        capsize=3,
        elinewidth=1.3,
        label=label,
        linestyle="-" if line else "none",
        markeredgecolor="white",
        markeredgewidth=0.7,
    )


def _papers(axis: Any, theirs: Figures, key: str, unit: float) -> None:
    found = sorted((lam, f[key] * unit) for lam, f in theirs.items() if key in f)
    if found:
        lams, values = zip(*found)
        axis.plot(
            lams,
            values,
            color=GREY,
            marker="D",
            markersize=5,
            markerfacecolor="none",
            linestyle=":",
            linewidth=1.2,
            label="paper" if key != "mean" else "paper, Mean",
        )


def _spans(stages: Stages, lams: Sequence[float]) -> list[tuple[int, float, float]]:
    """(stage, from, to) over the lam evaluated, as far as the stages are known."""
    if stages.start is None and stages.end is None:
        return []

    def sides(boundary: Interval | None, outside: float) -> tuple[float, float]:
        """The largest lam before the boundary, and the smallest after it."""
        if boundary is None:
            return outside, outside
        return (boundary.low, boundary.high) if stages.method == "gaps" else (boundary.value, boundary.value)

    first, second = sides(stages.start, lams[0])
    until, third = sides(stages.end, lams[-1])
    spans = [(1, lams[0], first), (2, second, until), (3, third, lams[-1])]
    return [span for span in spans if span[2] > span[1]]


def _shade(axis: Any, stages: Stages, lams: Sequence[float]) -> None:
    """Shades the stages; hatches the range of each boundary."""
    axis.set_facecolor("#F6F6F6" if not _spans(stages, lams) else "white")
    for stage, low, high in _spans(stages, lams):
        axis.axvspan(low, high, facecolor=STAGES[stage - 1], linewidth=0, zorder=0)
    for boundary in {(b.low, b.high) for b in (stages.start, stages.end) if b}:
        axis.axvspan(*boundary, facecolor="none", edgecolor="#B9B9B9", hatch="////", linewidth=0, zorder=0.5)


def _name_stages(axis: Any, stages: Stages, lams: Sequence[float]) -> None:
    spans = [(f"{stage}", low, high) for stage, low, high in _spans(stages, lams)]
    if stages.start and stages.end and all(stage != "2" for stage, _, _ in spans):
        spans.append(("2?", stages.start.low, stages.end.high))  # somewhere in this range
    for stage, low, high in spans:
        wide = high - low > 0.14 * (lams[-1] - lams[0])
        axis.annotate(
            f"stage {stage}" if wide else stage,
            ((low + high) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=11,
        )


def scatter(
    title: str, runs: Sequence[tuple[str, str, float | None, Scores]], front: Sequence[str]
) -> dict[str, bytes]:
    """Mean@n against tokens per answer, with the Pareto front as a line.

    Args:
        runs: (name, kind, lam, scores). front: names by rising tokens.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with style():
        figure = Figure(figsize=(5.8, 4.7), layout="constrained")
        axis = figure.subplots()
        axis.set_facecolor("#F6F6F6")
        axis.grid(axis="both")
        colors = matplotlib.colormaps["cividis"]
        at = {name: (s.tokens.value, 100 * s.mean.value) for name, _, _, s in runs}
        if len(front) > 1:
            x, y = zip(*(at[name] for name in front))
            axis.plot(x, y, color=GREY, linewidth=1.4, linestyle="--", label="Pareto front", zorder=1)
        for name, kind, lam, s in runs:
            x, y = at[name]
            error = {
                "xerr": [[max(x - s.tokens.low, 0)], [max(s.tokens.high - x, 0)]],
                "yerr": [[max(y - 100 * s.mean.low, 0)], [max(100 * s.mean.high - y, 0)]],
            }
            axis.errorbar(
                x,
                y,
                **error,
                marker=_MARKERS.get(kind, "^"),
                markersize=8,
                elinewidth=0.9,
                ecolor="#C9C9C9",
                color=colors(0.92 * lam) if lam is not None else VERMILION,
                markeredgecolor=INK,
                markeredgewidth=0.6,
                linestyle="none",
                zorder=3,
            )
        axis.plot([], [], "o", color=GREY, markeredgecolor=INK, label="interpolation, with its lam")
        axis.set(xlabel="tokens per answer (mean)", ylabel=f"Mean@{runs[0][3].samples} (%)")
        axis.margins(0.12, 0.1)
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        _title(figure, title)
        short = {name: f"{lam:g}" for name, kind, lam, _ in runs if kind == "interpolation"}
        named = [(short.get(name, short_name(name, _LONGEST_NAME)), point) for name, point in at.items()]
        labels.place(figure, axis, named, size=11)
        return encoded(figure)


_MARKERS = {"instruct": "s", "thinking": "D", "interpolation": "o", "merge": "^", "ablation": "v"}


def heat_map(
    title: str, temperatures: Sequence[float], top_ps: Sequence[float], cells: Mapping[tuple[float, float], Scores]
) -> dict[str, bytes]:
    """Mean@n by temperature (down) and top_p (across); missing cells are hatched."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    table = np.full((len(temperatures), len(top_ps)), np.nan)
    for (t, p), scores in cells.items():
        table[temperatures.index(t), top_ps.index(p)] = 100 * scores.mean.value
    with style():
        figure = Figure(figsize=(2.6 + 0.95 * len(top_ps), 1.6 + 0.6 * len(temperatures)), layout="constrained")
        axis = figure.subplots()
        axis.grid(visible=False)
        behind = {"transform": axis.transAxes, "facecolor": "0.97", "hatch": "////", "edgecolor": "0.8", "zorder": -1}
        axis.add_patch(Rectangle((0, 0), 1, 1, **behind))
        image = axis.imshow(np.ma.masked_invalid(table), cmap="cividis", aspect="auto")
        for row, column in np.argwhere(~np.isnan(table)):
            value = table[row, column]
            dark = image.norm(value) < 0.55
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black")
        axis.set_xticks(range(len(top_ps)), [f"{p:g}" for p in top_ps])
        axis.set_yticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
        axis.set(xlabel="top_p", ylabel="temperature")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        n = next(iter(cells.values())).samples
        figure.colorbar(image, ax=axis, label=f"Mean@{n} (%)").outline.set_visible(False)
        _title(figure, title)
        return encoded(figure)
