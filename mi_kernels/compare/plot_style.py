"""The style of every plot, here and in bench/: settings, palette, and files without dates or versions."""

from __future__ import annotations

import io
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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


def short_name(name: str, limit: int) -> str:
    """Returns a name with at most `limit` characters: the middle is left out, because names differ at their ends."""
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[len(name) - (limit - 1 - head) :]}"


def wrapped(text: str) -> Callable[[int], str]:
    """Returns a function that breaks `text` into lines of at most so many characters, and shortens longer words."""

    def lines(most: int) -> str:
        parts = (textwrap.wrap(line, most, break_long_words=False) for line in text.splitlines())
        return "\n".join(short_name(line, most) for part in parts for line in part)

    return lines


def fit_width(artist: Any, wide: float, lines: Callable[[int], str]) -> None:
    """Sets a text of a figure so that it is at most `wide` pixels wide, with as many characters in a line as fit.

    Args:
        artist: a matplotlib Text that is part of a figure.
        lines: returns the text for a number of characters in a line, see `wrapped`.
    """
    for most in range(160, 8, -2):
        text = lines(most)
        if text != artist.get_text() or most == 160:
            artist.set_text(text)
            if artist.get_window_extent().width <= wide:
                return


def encoded(figure: Any, kind: str, **options: Any) -> bytes:
    """The content of a "png" or "svg" file with the figure.

    Args:
        options: passed to `Figure.savefig`, such as dpi.
    """
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=_METADATA[kind], **options)
    return content.getvalue()
