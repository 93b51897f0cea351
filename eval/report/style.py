"""The style of the report's plots, on top of the style of all plots (`mi_kernels.compare.plot_style`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from mi_kernels.compare import plot_style
from mi_kernels.compare.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    fit_width,
    short_name,
    wrapped,
)

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "INK",
    "ORANGE",
    "PURPLE",
    "SKY_BLUE",
    "STAGES",
    "VERMILION",
    "encoded",
    "fit_width",
    "short_name",
    "style",
    "wrapped",
]

STAGES = ("#EEF3F7", "#FCEBD0", "#E3F1EA")
INK = "#222222"

_SETTINGS = {
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.axisbelow": True,
    "font.size": 12,
    "grid.color": "#FFFFFF",
    "grid.linewidth": 1.2,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "svg.fonttype": "path",  # text as drawn, whatever fonts the reader has
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}


def style() -> AbstractContextManager[None]:
    """Draws in the report's style, whatever the user's matplotlibrc says."""
    return plot_style.style(_SETTINGS)


def encoded(figure: Any) -> dict[str, bytes]:
    """{"svg": ..., "png": ...}, without dates or versions."""
    return {kind: plot_style.encoded(figure, kind, dpi=150, facecolor="white") for kind in ("svg", "png")}
