"""The style of all pictures: colours for colour-blind readers too, and the same bytes for the same data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F"
STAGES = ("#EEF3F7", "#FCEBD0", "#E3F1EA")
INK = "#222222"

_STYLE = {
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "font.size": 12,
    "grid.color": "#FFFFFF",
    "grid.linewidth": 1.2,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "svg.fonttype": "path",  # text as drawn, whatever fonts the reader has
    "svg.hashsalt": "mi_kernels",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}


@contextmanager
def style() -> Iterator[None]:
    """Uses matplotlib's defaults with our settings, and ignores the user's matplotlibrc."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        yield


def encoded(figure: Any) -> dict[str, bytes]:
    """{"svg": ..., "png": ...} without dates or versions."""
    found = {}
    for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=150, metadata=metadata, facecolor="white")
        found[kind] = content.getvalue()
    return found
