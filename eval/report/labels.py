"""Places names next to the points of a plot, where they cover as little as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels

_GAP = 9.0  # points between a marker's middle and its name
_AROUND = [(1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 0), (-1, 1), (-1, -1)]
_FURTHER = (1.0, 1.9, 2.8, 4.0, 5.4)
_LEADER = 1.9  # from this distance on, a line leads from the name to its point
_CLEAR = 1.5  # points around a name that nothing else should cover
_CLOSER = 60.0  # the cost of a place closer to another marker, which the name would seem to belong to
_BAR = 8.0  # the cost of an error bar behind a name; its outline keeps the name readable


def place(figure: Any, axis: Any, points: Sequence[tuple[str, tuple[float, float]]], *, size: float) -> None:
    """Writes each name at the nearest free place; names at a distance get a line to their point.

    Greedy, in the given order. The cost of a place is the area of markers and earlier names that it covers, the error
    bars behind it, the markers that its line crosses, and the part outside the plot.
    """
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()  # constrained layout determines the position of the axes
    pixel = figure.dpi / 72
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    at = [tuple(axis.transData.transform(point)) for _, point in points]
    half = 6 * pixel
    markers: list[Box] = [(x - half, y - half, x + half, y + half) for x, y in at]
    taken = list(markers)
    bars = _bars(axis)
    clear = _CLEAR * pixel
    rim = axis.get_window_extent(renderer).extents
    for (name, point), (x, y) in zip(points, at):
        text = axis.text(0, 0, name, fontsize=size, parse_math=False)
        extent = text.get_window_extent(renderer)
        text.remove()
        width, height = extent.width, extent.height
        options = []
        for far in _FURTHER:
            for right, up in _AROUND:
                box = _box(x + right * _GAP * far * pixel, y + up * _GAP * far * pixel, right, up, width, height)
                others = [other for other in taken if not _within((x, y), other)]
                around = (box[0] - clear, box[1] - clear, box[2] + clear, box[3] + clear)
                behind = _BAR * sum(_overlap(box, bar) > 0 for bar in bars)
                closer = _CLOSER * any(_distance(other, box) < _distance((x, y), box) for other in at)
                cost = _cost(around, taken, rim) + _crossed((x, y), box, others) + 3 * far + abs(up * right)
                cost += behind + (closer if far < _LEADER else 0)
                options.append((cost, far, right, up, box))
        _, far, right, up, box = min(options, key=lambda option: option[0])
        taken.append(box)
        if far >= _LEADER:
            taken += [(px - clear, py - clear, px + clear, py + clear) for px, py in _way((x, y), box)]
        axis.annotate(
            name,
            point,
            xytext=(right * _GAP * far, up * _GAP * far),
            textcoords="offset points",
            ha={1: "left", 0: "center", -1: "right"}[right],
            va={1: "bottom", 0: "center", -1: "top"}[up],
            fontsize=size,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": "#666666", "linewidth": 0.8} if far >= _LEADER else None,
            path_effects=[withStroke(linewidth=3, foreground="#F6F6F6")],
            zorder=4,
        )


def _bars(axis: Any) -> list[Box]:
    """The error bars, as boxes two pixels wide."""
    from matplotlib.collections import LineCollection

    found = []
    for collection in axis.collections:
        if isinstance(collection, LineCollection):
            for segment in collection.get_segments():
                (x0, y0), (x1, y1) = collection.get_transform().transform(segment)
                found.append((min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    return found


def _box(x: float, y: float, right: int, up: int, width: float, height: float) -> Box:
    left = {1: x, 0: x - width / 2, -1: x - width}[right]
    bottom = {1: y, 0: y - height / 2, -1: y - height}[up]
    return (left, bottom, left + width, bottom + height)


def _cost(box: Box, taken: list[Box], rim: Any) -> float:
    covered = sum(_overlap(box, other) for other in taken)
    outside = max(rim[0] - box[0], 0) + max(rim[1] - box[1], 0) + max(box[2] - rim[2], 0) + max(box[3] - rim[3], 0)
    return covered + 50 * outside


def _crossed(point: tuple[float, float], box: Box, others: list[Box]) -> float:
    """The cost of other markers and names on the line from `point` to `box`, which would seem to point at them."""
    way = _way(point, box)
    return 150.0 * sum(any(_within(at, other) for at in way) for other in others)


def _way(point: tuple[float, float], box: Box) -> list[tuple[float, float]]:
    """Points between `point` and the middle of `box`, where the line to a name runs."""
    end = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    steps = [i / 12 for i in range(1, 12)]
    way = [(point[0] + t * (end[0] - point[0]), point[1] + t * (end[1] - point[1])) for t in steps]
    return [at for at in way if not _within(at, box)]


def _distance(point: tuple[float, float], box: Box) -> float:
    across = max(box[0] - point[0], 0, point[0] - box[2])
    along = max(box[1] - point[1], 0, point[1] - box[3])
    return math.hypot(across, along)


def _within(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _overlap(a: Box, b: Box) -> float:
    across, along = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return across * along if across > 0 and along > 0 else 0.0
