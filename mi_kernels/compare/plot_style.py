"""The style of every plot, here and in bench/: settings, palette, and files without dates or versions."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/).
BLACK, BLUE, SKY_BLUE, GREEN = "#000000", "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILION, PURPLE, GREY = "#E69F00", "#D55E00", "#CC79A7", "#999999"

_SETTINGS = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "image.cmap": "viridis",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mi_kernels",  # the ids in an SVG file are the same in every run
}
# Dates and versions would change the file although the plot is the same.
_METADATA = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


@contextmanager
def style(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draws in our style, whatever the user's matplotlibrc says.

    Args:
        settings: further settings of matplotlib, which override ours.
    """
    import matplotlib.style

    with matplotlib.style.context(["default", {**_SETTINGS, **(settings or {})}]):
        yield


def encoded(figure: Any, kind: str, **options: Any) -> bytes:
    """The content of a "png" or "svg" file with the figure.

    Args:
        options: passed to `Figure.savefig`, such as dpi.
    """
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=_METADATA[kind], **options)
    return content.getvalue()
