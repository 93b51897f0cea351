"""What is wrong with the texts of a figure: outside of it, over each other, or under an error bar."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

_SLACK = 1.0  # pixels: renderers round the boxes of glyphs up to whole pixels


class Drawn(list[Any]):
    """The figures that were encoded, in order."""


def captured(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Collects every figure that `plot_style.encoded` encodes from now on; it still encodes them."""
    from mi_kernels.compare import plot_style, plots

    figures = Drawn()
    real = plot_style.encoded

    def encoded(figure: Any, kind: str, **options: Any) -> bytes:
        if all(figure is not other for other in figures):
            figures.append(figure)
        return real(figure, kind, **options)

    monkeypatch.setattr(plot_style, "encoded", encoded)
    monkeypatch.setattr(plots, "encoded", encoded)
    return figures


def text_problems(figure: Any, bars: bool = True) -> list[str]:
    """One sentence for each text that leaves the figure, covers another one, or has an error bar through it.

    Args:
        bars: look for error bars too.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = _not_drawn(figure)
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden]
    boxes = [(text.get_text(), Text.get_window_extent(text, renderer)) for text in texts]  # without arrows
    whole = figure.bbox
    found = []
    for name, box in boxes:
        over = (whole.x0 - box.x0, whole.y0 - box.y0, box.x1 - whole.x1, box.y1 - whole.y1)
        if max(over) > _SLACK:
            found.append(f"{name!r} leaves the figure by {max(over):.0f} pixels")
    for (one, a), (two, b) in combinations(boxes, 2):
        if _overlap(a, b):
            found.append(f"{one!r} covers {two!r}")
    for axis in figure.axes if bars else ():
        for text in axis.texts:
            box = Text.get_window_extent(text, renderer)
            found += [f"an error bar runs through {text.get_text()!r}" for line in _bars(axis) if _overlap(box, line)]
    return found


def _not_drawn(figure: Any) -> set[int]:
    """The labels of ticks outside the limits of their axis, which exist but are not drawn."""
    found = set()
    for axis in (part for axes in figure.axes for part in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - slack <= tick.get_loc() <= high + slack:
                found |= {id(tick.label1), id(tick.label2)}
    return found


def _bars(axis: Any) -> Iterator[Any]:
    """The parts of error bars within the axes, as boxes of at least two pixels."""
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import Bbox

    for collection in axis.collections:
        if not isinstance(collection, LineCollection):
            continue
        for segment in collection.get_segments():
            ends = collection.get_transform().transform(segment)
            low, high = ends.min(axis=0) - 1, ends.max(axis=0) + 1
            low = [max(low[0], axis.bbox.x0), max(low[1], axis.bbox.y0)]
            high = [min(high[0], axis.bbox.x1), min(high[1], axis.bbox.y1)]
            if low[0] < high[0] and low[1] < high[1]:
                yield Bbox([low, high])


def _overlap(a: Any, b: Any) -> bool:
    return bool(min(a.x1, b.x1) - max(a.x0, b.x0) > _SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > _SLACK)
