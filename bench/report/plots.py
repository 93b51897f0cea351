"""Plots of the results, as PNG and SVG: bars relative to the roofline, and lines over size, threads or lam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mi_kernels.compare import plot_style

from ..files.contestants import MEASURES
from ..registry import Draw
from ..results import where

# Each contestant has one colour, the same in every plot.
COLORS = {
    "ours": plot_style.BLUE,
    "roofline": plot_style.BLACK,
    "cp": plot_style.BLACK,
    "disk": plot_style.GREY,
    "torch": plot_style.ORANGE,
    "torch.lerp": plot_style.ORANGE,
    "paper": plot_style.VERMILION,
    "naive torch": plot_style.VERMILION,
    "mergekit": plot_style.PURPLE,
    "numpy": plot_style.GREEN,
    "torch._foreach_lerp": plot_style.SKY_BLUE,
}
_TOP = 1.3  # upper end of the axis of shares: a single disturbed round can be far above it
_CLOSE = 0.06  # of the axis: two labels with one digit more than those of the measured values
_LONGEST_TITLE = 40  # characters
_GAP = 1.5  # points between a line and a text beside it


def save(found: dict[str, Any], draw: Draw, path: Path, size: tuple[float, float]) -> None:
    """Draws on a figure of `size` inches, with the command and the machine below, and writes PATH.png and PATH.svg."""
    with plot_style.style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        footer = figure.supxlabel("", fontsize=6.5, color="0.4", parse_math=False)
        about = plot_style.wrapped(f"{found['command']}\n{where(found)}")
        plot_style.fit_width(footer, 0.97 * figure.bbox.width, about)
        path.parent.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "svg"):
            path.with_name(f"{path.name}.{kind}").write_bytes(plot_style.encoded(figure, kind, dpi=120))


def color(name: str) -> str:
    """The colour of the longest key of COLORS that `name` starts with; grey for an unknown contestant."""
    known = [key for key in COLORS if name.startswith(key)]
    return COLORS[max(known, key=len)] if known else "0.5"


def _errors(spreads: Sequence[dict[str, float]], scale: float = 1.0) -> list[list[float]]:
    """From minimum to maximum, in the form of error bars in matplotlib."""
    return [
        [(s["median"] - s["min"]) * scale for s in spreads],
        [(s["max"] - s["median"]) * scale for s in spreads],
    ]


def shares(rows: Sequence[dict[str, Any]], names: Sequence[str], prefix: str, figure: Any) -> None:
    """A cluster of bars for each group: time of the roofline / time of the contestant, with minimum and maximum.

    A contestant that was not measured leaves a gap. An arrow at the top is a maximum beyond the axis. The medians stand
    above the error bars, so that neither hides the other.
    """
    axis = figure.subplots()
    groups = list(dict.fromkeys(row["group"] for row in rows))
    found = {(row["group"], row["name"]): row["of_roofline"] for row in rows}
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        for x, group in enumerate(groups):
            if (group, name) not in found:
                continue
            low, middle, high = (found[group, name][key] for key in ("min", "median", "max"))
            at = x + (i - (len(names) - 1) / 2) * width
            label = name if x == 0 else None
            end = min(high, _TOP)
            axis.bar(at, middle, width * 0.9, color=color(name), label=label)
            axis.vlines(at, min(low, _TOP), end, color="0.5", linewidth=0.8)
            if high > _TOP:
                axis.plot(at, _TOP, marker="^", markersize=3.5, color="0.5")
            above = max(end, min(middle, _TOP))
            place = {"xytext": (0, 3.5), "textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 6}
            axis.annotate(f"{middle:.2f}", (at, above), **place, path_effects=_outlined())
    axis.axhline(1, color="0.4", linestyle="--", linewidth=0.8, zorder=0.5)
    labels = [group.removeprefix(prefix).removesuffix(" bf16") for group in groups]
    axis.set_xticks(range(len(groups)), [label.replace(", ", "\n").replace(": ", "\n") for label in labels])
    axis.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    axis.set_ylabel("share of the loop\nwithout arithmetic")
    axis.set_ylim(0, _TOP + 0.12)
    _legend(figure)
    _clear(figure, axis, 1)


def _clear(figure: Any, axis: Any, y: float) -> None:
    """Moves the texts through which a horizontal line at `y` would run above it."""
    figure.draw_without_rendering()  # the layout determines how far a text reaches in the units of the axis
    line = axis.transData.transform((0, y))[1]
    gap = _GAP * figure.dpi / 72
    for text in axis.texts:
        box = text.get_window_extent()
        if box.y0 - gap < line < box.y1 + gap:
            across, up = text.xyann
            text.xyann = (across, up + (line + gap - box.y0) * 72 / figure.dpi)


def _outlined() -> list[Any]:
    """White around a text, where a line runs behind it."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="white")]


def _legend(figure: Any) -> None:
    """A legend above the plot, in as few rows as fit the width of the figure."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    rows = 0
    while names:
        rows += 1
        columns = -(-len(names) // rows)
        legend = figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False)
        figure.draw_without_rendering()
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def memory_sizes(found: dict[str, Any]) -> Draw | None:
    """bf16 on all threads, by size."""
    rows = [r for r in found["rows"] if r["group"].startswith("one tensor") and r["dtype"] == "bf16"]
    names = ["ours, out=", "torch.lerp, out=", "torch._foreach_lerp", "naive torch"]
    return partial(shares, rows, names, "one tensor, ") if rows else None


def memory_lists(found: dict[str, Any]) -> Draw | None:
    """All tensors of a checkpoint, on all threads."""
    rows = [row for row in found["rows"] if row["group"].startswith("list")]
    names = ["ours, multi_lerp, outs=", "torch.lerp one by one, out=", "torch._foreach_lerp", "naive torch"]
    return partial(shares, rows, names, "list, ") if rows else None


def contestants(found: dict[str, Any]) -> Draw:
    """Seconds file to file, warm and cold, with minimum and maximum."""
    states = list(dict.fromkeys(row["group"].rsplit(", ", 1)[-1] for row in found["rows"]))

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        for axis, state in zip(figure.subplots(1, len(states), sharex=True, squeeze=False)[0], states):
            rows = [row for row in found["rows"] if row["group"].endswith(state)][::-1]
            spreads = [row["seconds"] for row in rows]
            medians = [s["median"] for s in spreads]
            places = range(len(rows))
            axis.barh(places, medians, xerr=_errors(spreads), color=[color(r["name"]) for r in rows], ecolor="0.5")
            for y, row in enumerate(rows):
                text = f" {row['seconds']['median']:,.2f} s"
                axis.annotate(text, (row["seconds"]["max"], y), va="center", fontsize=8)
            axis.set_yticks(places, [row["name"] for row in rows])
            axis.set_xlim(right=1.2 * max(row["seconds"]["max"] for row in found["rows"]))
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.xaxis.set_major_formatter("{x:,g}")
            title = plot_style.short_name(f"{found['settings']['model']}, {state}", _LONGEST_TITLE)
            axis.set_title(title, fontsize=9, parse_math=False)
            axis.set_xlabel("seconds, output on the disk")
        _make_room(figure)

    return draw


def _make_room(figure: Any) -> None:
    """Moves the right end of the horizontal axes, which are shared, until no label beside a bar leaves its plot."""
    for _ in range(5):
        figure.draw_without_rendering()
        beyond = [
            (text.get_window_extent().x1 - axis.bbox.x0) / axis.bbox.width
            for axis in figure.axes
            for text in axis.texts
        ]
        if max(beyond, default=0) <= 1:
            return
        figure.axes[0].set_xlim(right=1.05 * max(beyond) * figure.axes[0].get_xlim()[1])


def growth(found: dict[str, Any], across: str, figure_of: str = "seconds") -> Draw:
    """A line for each contestant over `at`, with minimum and maximum."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        if not (figure_of == "anonymous" and row["name"] in MEASURES):  # they hold almost no memory
            by_name.setdefault(row["name"].split(" --")[0], []).append(row)
    scale = 1.0 if figure_of == "seconds" else 1e-6

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for name, rows in by_name.items():
            _line(axis, name, [row["at"] for row in rows], [row[figure_of] for row in rows], scale)
        _ticks(axis, sorted({row["at"] for row in found["rows"]}), log="GB" in across)
        axis.set_xlabel(across)
        axis.set_ylabel("seconds" if figure_of == "seconds" else "peak anonymous MB")
        _legend(figure)

    return draw


def threads(found: dict[str, Any]) -> Draw | None:
    """GB/s over threads, in memory."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        if row["group"].startswith("threads"):
            by_name.setdefault(row["name"], []).append(row)

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for name, rows in by_name.items():
            speeds = [_inverse(row["seconds"], row["bytes"] / 1e9) for row in rows]
            _line(axis, name, [row["threads"] for row in rows], speeds)
        _ticks(axis, sorted({row["threads"] for rows in by_name.values() for row in rows}), log=False)
        axis.set_xlabel("threads")
        axis.set_ylabel("GB/s read and written")
        _legend(figure)

    return draw if by_name else None


def _inverse(seconds: dict[str, float], amount: float) -> dict[str, float]:
    return {"min": amount / seconds["max"], "median": amount / seconds["median"], "max": amount / seconds["min"]}


def _line(axis: Any, name: str, at: Sequence[float], spreads: Sequence[dict[str, float]], scale: float = 1.0) -> None:
    medians = [found["median"] * scale for found in spreads]
    style = "--" if name in ("roofline", *MEASURES) else "-"
    axis.errorbar(at, medians, _errors(spreads, scale), color=color(name), fmt=f"o{style}", capsize=3, label=name)


def _ticks(axis: Any, at: Sequence[float], log: bool) -> None:
    """Puts a tick at each measured value; both axes are logarithmic, or the vertical one starts at 0."""
    if log:
        axis.set(xscale="log", yscale="log")
        axis.xaxis.set_minor_formatter("")
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.yaxis.set_minor_formatter("")
        axis.grid(axis="y", which="both", linewidth=0.3)
    else:
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    shown = [f"{tick:,.1f}" if tick % 1 else f"{tick:,.0f}" for tick in at]
    left, right = (math.log(end) if log else end for end in axis.get_xlim())
    last = -math.inf
    for i, tick in enumerate(at):
        place = ((math.log(tick) if log else tick) - left) / (right - left)
        if place - last < _CLOSE:  # the labels would touch
            shown[i] = ""
        else:
            last = place
    axis.set_xticks(at, shown)
