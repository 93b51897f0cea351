"""Pictures of the results: bars against the roofline, lines of growth and of memory. PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .readme import where

# One colour a contestant, in every picture; Okabe and Ito's set, which colour-blind readers can tell apart.
COLORS = {
    "ours": "#0072B2",
    "roofline": "#000000",
    "cp": "#000000",
    "torch": "#E69F00",
    "torch.lerp": "#E69F00",
    "paper": "#D55E00",
    "naive torch": "#D55E00",
    "mergekit": "#CC79A7",
    "numpy": "#009E73",
    "torch._foreach_lerp": "#56B4E9",
}
_SETTINGS = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "mi_kernels"}


def save(found: dict[str, Any], draw: Callable[[Any], None], path: Path, size: tuple[float, float]) -> None:
    """Draws on a figure of `size` inches, names machine and commit below, and writes PATH.png and PATH.svg."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", _SETTINGS]):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.supxlabel(f"{found['command']}\n{where(found)}", fontsize=6.5, color="0.4")
        for kind in ("png", "svg"):
            picture = io.BytesIO()
            figure.savefig(picture, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}.{kind}").write_bytes(picture.getvalue())


def color(name: str) -> str:
    return COLORS.get(name.split(",")[0].split(" --")[0], "0.5")


def _errors(spreads: Sequence[dict[str, float]], scale: float = 1.0) -> list[list[float]]:
    """From the least to the most measured, as matplotlib wants its error bars."""
    return [
        [(s["median"] - s["min"]) * scale for s in spreads],
        [(s["max"] - s["median"]) * scale for s in spreads],
    ]


def bars(figure: Any, groups: Sequence[str], series: dict[str, list[float | None]], label: str) -> None:
    """A cluster of bars for each group, a dashed line at 1; a bar that was not measured is left out."""
    axis = figure.subplots()
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        places = [x for x, value in enumerate(values) if value is not None]
        heights = [value for value in values if value is not None]
        at = [x + (i - (len(series) - 1) / 2) * width for x in places]
        axis.bar(at, heights, width * 0.9, color=color(name), label=name)
        for x, height in zip(at, heights):
            axis.annotate(f"{height:.2f}", (x, height), ha="center", va="bottom", fontsize=6)
    axis.axhline(1, color="0.4", linestyle="--", linewidth=0.8)
    axis.set_xticks(range(len(groups)), groups)
    axis.set_ylabel(label)
    axis.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=len(series), frameon=False)


def memory_sizes(found: dict[str, Any]) -> Callable[[Any], None]:
    """bf16 on all threads, by size: each contestant's share of the roofline."""
    rows = [r for r in found["rows"] if r["group"].startswith("one tensor") and r["dtype"] == "bf16"]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    names = ["ours, out=", "torch.lerp, out=", "torch._foreach_lerp", "naive torch"]
    shares = {(row["group"], row["name"]): row["of_roofline"] for row in rows}
    series = {name: [shares.get((group, name)) for group in groups] for name in names}
    labels = [group.removeprefix("one tensor, ").removesuffix(" bf16") for group in groups]
    return lambda figure: bars(figure, labels, series, "share of the loop without arithmetic")


def memory_lists(found: dict[str, Any]) -> Callable[[Any], None]:
    """All tensors of a checkpoint: each contestant's share of the roofline."""
    rows = [row for row in found["rows"] if row["group"].startswith("list")]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows if row["name"] != "roofline"))
    shares = {(row["group"], row["name"]): row["of_roofline"] for row in rows}
    named = [name for name in names if name != "ours, lerp one by one, out="]
    series = {name: [shares.get((group, name)) for group in groups] for name in named}
    labels = [group.removeprefix("list, ").replace(", ", "\n").replace(": ", "\n") for group in groups]
    return lambda figure: bars(figure, labels, series, "share of the loop without arithmetic")


def contestants(found: dict[str, Any]) -> Callable[[Any], None]:
    """Seconds file to file, warm and cold, with the least and the most measured."""
    states = list(dict.fromkeys(row["group"].rsplit(", ", 1)[-1] for row in found["rows"]))

    def draw(figure: Any) -> None:
        for axis, state in zip(figure.subplots(1, len(states), sharex=True, squeeze=False)[0], states):
            rows = [row for row in found["rows"] if row["group"].endswith(state)][::-1]
            spreads = [row["seconds"] for row in rows]
            medians = [s["median"] for s in spreads]
            places = range(len(rows))
            axis.barh(places, medians, xerr=_errors(spreads), color=[color(r["name"]) for r in rows], ecolor="0.5")
            for y, row in enumerate(rows):
                text = f" {row['seconds']['median']:.2f} s"
                axis.annotate(text, (row["seconds"]["max"], y), va="center", fontsize=8)
            axis.set_yticks(places, [row["name"] for row in rows])
            axis.set_xlim(right=1.2 * max(row["seconds"]["max"] for row in found["rows"]))
            axis.set_title(f"{found['settings']['model']}, {state}", fontsize=9)
            axis.set_xlabel("seconds, output on the disk")

    return draw


def growth(found: dict[str, Any], across: str, figure_of: str = "seconds") -> Callable[[Any], None]:
    """A line for each contestant over `at`, with the least and the most measured."""
    names = list(dict.fromkeys(row["name"].split(" --")[0] for row in found["rows"]))
    scale = 1.0 if figure_of == "seconds" else 1e-6

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for name in names:
            rows = [row for row in found["rows"] if row["name"].split(" --")[0] == name]
            if figure_of == "anonymous" and name == "cp":
                continue
            spreads = [row[figure_of] for row in rows]
            at, medians = [row["at"] for row in rows], [s["median"] * scale for s in spreads]
            axis.errorbar(at, medians, _errors(spreads, scale), color=color(name), marker="o", capsize=3, label=name)
        if across != "threads":
            axis.set(xscale="log", yscale="log")
        ticks = sorted({row["at"] for row in found["rows"]})
        axis.set_xticks(ticks, [f"{tick:.2g}" if tick < 10 else f"{tick:.0f}" for tick in ticks])
        axis.minorticks_off() if across == "threads" else axis.tick_params(axis="x", which="minor", bottom=False)
        axis.set_ylim(bottom=0) if across == "threads" else None
        axis.set_xlabel(across)
        axis.set_ylabel("seconds" if figure_of == "seconds" else "peak anonymous MB")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.legend(frameon=False)

    return draw


def threads(found: dict[str, Any]) -> Callable[[Any], None]:
    """GB/s over threads, in memory."""
    rows = [row for row in found["rows"] if row["group"].startswith("threads")]
    names = list(dict.fromkeys(row["name"] for row in rows))

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for name in names:
            mine = [row for row in rows if row["name"] == name]
            at, speeds = [row["threads"] for row in mine], [row["bytes_per_second"] / 1e9 for row in mine]
            style = "--" if name == "roofline" else "-"
            axis.plot(at, speeds, style, color=color(name), marker="o", label=name)
        axis.set_xticks(sorted({row["threads"] for row in rows}))
        axis.set_ylim(bottom=0)
        axis.set_xlabel("threads")
        axis.set_ylabel("GB/s read and written")
        axis.legend(frameon=False)

    return draw
