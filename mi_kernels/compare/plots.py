"""Draw the heat map of a comparison. Only this module imports matplotlib, when it draws (extra: plots)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import ArgumentError, OutputError, printable
from ..system.atomic import write_file
from ..system.faults import problem, remedy
from ..system.packages import install
from .plot_style import encoded, fit_width, short_name, style
from .similarity import Similarity

FORMATS = (".png", ".svg")

_TITLE = 0.97  # of the width of the figure
_LINE = 0.16  # inches between two lines of the title
_ROWS_OF_FORMULA = 5  # rows beside which the formula fits
_HATCHES = {"hatch.color": "0.82", "hatch.linewidth": 0.6}


def check(path: str | os.PathLike[str]) -> None:
    """Checks before the comparison that its heat map can be drawn and written.

    Raises:
        ArgumentError: the file name does not end in .png or .svg.
        OutputError: matplotlib cannot be imported, or the folder of `path` does not exist or is not writable.
    """
    given = os.fspath(path)
    if os.path.splitext(given)[1].lower() not in FORMATS:
        raise ArgumentError(f"{given}: unknown image format", "Use a file name that ends in .png or .svg.")
    folder = os.path.dirname(os.path.abspath(given))
    if os.path.isdir(given) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise OutputError(f"{given}: cannot be written", "Use a file in an existing folder that you can write to.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise OutputError(
            f"{given}: drawing needs matplotlib, which cannot be imported: {error}",
            f"Run {install('matplotlib')}, or leave out the plot.",
        ) from error


def heat_map(found: Similarity, path: str | os.PathLike[str]) -> None:
    """Draws sigma by layer (columns) and module (rows), and of the whole model, into a PNG or SVG file.

    Cells without a tensor are hatched. The color scale is linear and starts at 0.

    Raises:
        ArgumentError: see `check`.
        OutputError: see `check`; or writing failed. An existing file at `path` is unchanged then.
    """
    check(path)
    given = os.fspath(path)
    kind = os.path.splitext(given)[1][1:].lower()
    with style(_HATCHES):
        picture = encoded(_draw(found), kind, dpi=160)
    _write(given, picture)


def _write(path: str, content: bytes) -> None:
    try:
        write_file(path, content)
    except OSError as error:
        raise OutputError(f"{path}: writing failed: {problem(error)}", remedy(error)) from error


def _table(found: Similarity) -> tuple[list[int], list[str], Any]:
    """Returns (layers, modules, sigma).

    `sigma` has a row for all modules and one for each module, and a column for each layer and one for the whole model.
    It is NaN where the model has no tensor. Modules that occur only outside the layers come last.
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
    # Inches: a column is as wide as its number is high, up to the width of a page. The last column holds numbers.
    across = min(max(4.0, 0.16 * len(layers)), 11.0) if layers else 0.0
    wide, high = across + 2.6, 0.32 * len(table) + 1.1
    figure = Figure(figsize=(wide, high), layout="constrained")
    axis = figure.subplots()
    inch = len(layers) / across if layers else 1.0  # in the unit of the x axis, which is a layer
    left = len(layers) + 0.12 * inch
    right = left + 0.75 * inch
    top = np.nanmax(table) or 1.0
    if layers:
        _cells(axis, np.arange(len(layers) + 1), table[:, :-1], top)
    image = _cells(axis, np.array([left, right]), table[:, -1:], top)
    _numbers(axis, (left + right) / 2, table[:, -1], image)
    axis.axhline(1, color="white", linewidth=4)  # separates the row "all" from the modules
    axis.set_yticks(np.arange(len(table)) + 0.5, ["all", *modules])
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 200, 500) if len(layers) / step <= 26)
    ticks = [(i + 0.5, str(layer)) for i, layer in enumerate(layers) if layer % step == 0]
    axis.set_xticks([*(at for at, _ in ticks), (left + right) / 2], [*(text for _, text in ticks), "model"])
    axis.set_xlabel("decoder layer" if layers else "", labelpad=6)
    axis.xaxis.set_label_position("top")
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.set(xlim=(0 if layers else left, right), ylim=(len(table), 0), frame_on=False)
    label = "Σ|a - b| / (Σ|a| + Σ|b|)" if len(table) >= _ROWS_OF_FORMULA else "sigma"
    figure.colorbar(image, ax=axis, pad=0.02, aspect=12, label=label).outline.set_visible(False)
    title = figure.suptitle("", fontsize=10, parse_math=False)
    fit_width(title, _TITLE * figure.bbox.width, partial(_title, found))
    figure.set_figheight(high + _LINE * title.get_text().count("\n"))
    return figure


def _title(found: Similarity, most: int) -> str:
    """Returns the title in lines of at most `most` characters: one, or two with shortened names."""
    names = [_short(model) for model in found.models]
    line = f"sigma of {names[0]} and {names[1]}"
    if len(line) <= most:
        return line
    one, two = (short_name(name, most - len("sigma of ")) for name in names)
    return f"sigma of {one}\nand {two}"


def _cells(axis: Any, columns: Any, values: Any, top: float) -> Any:
    """Draws `values` as colors, from 0 to `top`. A NaN shows the hatched background."""
    import numpy as np
    from matplotlib.patches import Rectangle

    height, width = len(values), columns[-1] - columns[0]
    axis.add_patch(Rectangle((columns[0], 0), width, height, facecolor="0.97", hatch="////", linewidth=0))
    masked = np.ma.masked_invalid(values)
    return axis.pcolormesh(columns, np.arange(height + 1), masked, vmin=0.0, vmax=top, rasterized=True)


def _numbers(axis: Any, at: float, values: Any, image: Any) -> None:
    """Writes the values into their cells, in black on bright cells and in white on dark ones."""
    for row, value in enumerate(values):
        red, green, blue, _ = image.cmap(image.norm(value))
        bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5  # luma, Rec. 709
        color = "black" if bright else "white"
        axis.text(at, row + 0.5, f"{value:#.3g}", ha="center", va="center", fontsize=8, color=color)


def _short(model: Mapping[str, Any]) -> str:
    """Returns the last part of the path or Hub id of a model, and that of its adapter."""
    parts = [model, model["adapter"]] if model.get("adapter") else [model]
    return "+".join(printable(str(part["source"]).rstrip("/").rsplit("/", 1)[-1]) for part in parts)
