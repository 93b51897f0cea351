"""Pictures of what was computed. matplotlib is imported here only, when a picture is asked for (extra: plots)."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from ..errors import ArgumentError, OutputError, printable
from ..system.faults import problem, remedy
from .plot_style import encoded, style
from .similarity import Similarity

FORMATS = (".png", ".svg")

_HATCHES = {"hatch.color": "0.82", "hatch.linewidth": 0.6}


def check(path: str | os.PathLike[str]) -> None:
    """Refuses before the work what could not be drawn after it.

    Raises:
        ArgumentError: the name ends in neither .png nor .svg.
        OutputError: matplotlib is missing, or `path` lies in no folder that may be written.
    """
    given = os.fspath(path)
    if os.path.splitext(given)[1].lower() not in FORMATS:
        raise ArgumentError(f"{given}: pictures are written as PNG or SVG", "Give a name that ends in .png or .svg.")
    folder = os.path.dirname(os.path.abspath(given))
    if os.path.isdir(given) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise OutputError(f"{given}: cannot be written", "Give a file in a folder that exists and may be written.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise OutputError(
            f"{given}: drawing needs matplotlib, which cannot be imported: {error}",
            "Run `python -m pip install 'mi_kernels[plots]'`, or leave the picture out.",
        ) from error


def heat_map(found: Similarity, path: str | os.PathLike[str]) -> None:
    """Draws sigma by layer (across) and module (down), and of the whole model, into a PNG or SVG file.

    Cells where the model has no tensor are hatched. The scale is linear from 0.

    Raises:
        ArgumentError, OutputError: see `check`; OutputError also where the disk fails. `path` is then as it was.
    """
    check(path)
    given = os.fspath(path)
    kind = os.path.splitext(given)[1][1:].lower()
    with style(_HATCHES):
        picture = encoded(_draw(found), kind, dpi=160, bbox_inches="tight")
    _write(given, picture)


def _write(path: str, content: bytes) -> None:
    work = f"{path}.{os.getpid()}.part"
    try:
        try:
            with open(work, "wb") as file:
                file.write(content)
            os.replace(work, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(work)
            raise
    except OSError as error:
        raise OutputError(f"{path}: writing failed: {problem(error)}", remedy(error)) from error


def _table(found: Similarity) -> tuple[list[int], list[str], Any]:
    """(layers, modules, sigma): a row for everything and one for each module; a column for each layer, one for all.

    NaN where the model has no tensor. Modules that only lie outside the layers come last.
    """
    import numpy as np

    layers = [layer for layer in found.layers if layer is not None]
    inside = {module for layer, module in found.cells if layer is not None}
    modules = sorted(found.modules, key=lambda module: module not in inside)
    table = np.full((1 + len(modules), len(layers) + 1), np.nan)
    table[0] = [*(found.layers[layer].sigma for layer in layers), found.overall.sigma]
    for row, module in enumerate(modules, 1):
        table[row, -1] = found.modules[module].sigma
        for column, layer in enumerate(layers):
            if (layer, module) in found.cells:
                table[row, column] = found.cells[layer, module].sigma
    return layers, modules, table


def _draw(found: Similarity) -> Any:
    import numpy as np
    from matplotlib.figure import Figure

    layers, modules, table = _table(found)
    # Inches: a layer is as wide as its number is high while the page has room; the last column holds numbers.
    across = min(max(4.0, 0.16 * len(layers)), 11.0) if layers else 0.0
    figure = Figure(figsize=(across + 2.6, 0.32 * len(table) + 1.1), layout="constrained")
    axis = figure.subplots()
    inch = len(layers) / across if layers else 1.0  # the unit across is a layer
    left = len(layers) + 0.12 * inch
    right = left + 0.75 * inch
    top = np.nanmax(table) or 1.0
    if layers:
        _cells(axis, np.arange(len(layers) + 1), table[:, :-1], top)
    image = _cells(axis, np.array([left, right]), table[:, -1:], top)
    _numbers(axis, (left + right) / 2, table[:, -1], image)
    axis.axhline(1, color="white", linewidth=4)  # sets all apart from the modules it is made of
    axis.set_yticks(np.arange(len(table)) + 0.5, ["all", *modules])
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 200, 500) if len(layers) / step <= 26)
    ticks = [(i + 0.5, str(layer)) for i, layer in enumerate(layers) if layer % step == 0]
    axis.set_xticks([*(at for at, _ in ticks), (left + right) / 2], [*(text for _, text in ticks), "model"])
    axis.set_xlabel("decoder layer" if layers else "", labelpad=6)
    axis.xaxis.set_label_position("top")
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.set(xlim=(0 if layers else left, right), ylim=(len(table), 0), frame_on=False)
    figure.colorbar(image, ax=axis, pad=0.02, aspect=12, label="Σ|a - b| / (Σ|a| + Σ|b|)").outline.set_visible(False)
    title = " and ".join(_short(model["source"]) for model in found.models)
    figure.suptitle(f"sigma of {title}", fontsize=10, parse_math=False)
    return figure


def _cells(axis: Any, columns: Any, values: Any, top: float) -> Any:
    """Colours `values`, 0 to `top`; where there is none, the hatched ground shows through."""
    import numpy as np
    from matplotlib.patches import Rectangle

    height, width = len(values), columns[-1] - columns[0]
    axis.add_patch(Rectangle((columns[0], 0), width, height, facecolor="0.97", hatch="////", linewidth=0))
    masked = np.ma.masked_invalid(values)
    return axis.pcolormesh(columns, np.arange(height + 1), masked, vmin=0.0, vmax=top, rasterized=True)


def _numbers(axis: Any, at: float, values: Any, image: Any) -> None:
    """Writes the values into their cells, in black where the cell is bright and in white where it is dark."""
    for row, value in enumerate(values):
        red, green, blue, _ = image.cmap(image.norm(value))
        bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5  # luma, Rec. 709
        color = "black" if bright else "white"
        axis.text(at, row + 0.5, f"{value:#.3g}", ha="center", va="center", fontsize=8, color=color)


def _short(source: str) -> str:
    """The last part of a path or Hub id, in a length that fits a title."""
    name = printable(source.rstrip("/").rsplit("/", 1)[-1])
    return name if len(name) <= 40 else name[:37] + "..."
