"""Show which lam a recipe gives to each layer and module of a model, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..checkpoint.names import MODULES, OTHER, places
from ..errors import counted

_ORDER = (*MODULES, OTHER)
_OUTSIDE = "outside"


class Row(NamedTuple):
    """The lam of one module in a run of consecutive layers.

    Attributes:
        first, last: the first and the last layer of the run; None for tensors outside the layers.
        module: the module, from `mi_kernels.checkpoint.names.classify`.
        lam: the weight of THINKING.
        tensors, nbytes: the number and the bytes of the tensors with this lam in the whole run.
    """

    first: int | None
    last: int | None
    module: str
    lam: float
    tensors: int
    nbytes: int


Cells = dict[tuple[str, float], tuple[int, int]]  # (module, lam) -> (tensors, bytes)


class _Run(NamedTuple):
    first: int | None
    last: int | None
    kind: object  # equal for layers that can share a run
    cells: Cells


def recipe_table(sizes: Mapping[str, int], weights: Mapping[str, float]) -> list[Row]:
    """Returns the number and bytes of the tensors with each lam, by layer and module; outside the layers first.

    Consecutive layers form one run if the same modules have the same lam. If the tensors of a module have several lam,
    their counts must be equal too.

    Args:
        sizes: the bytes of every tensor, by name.
        weights: the lam of every tensor, from `Recipe.weights`.
    """
    by_layer: dict[int | None, Cells] = {}
    for name, (module, layer) in places(sizes).items():
        _add(by_layer.setdefault(layer, {}), (module, weights[name]), (1, sizes[name]))
    runs: list[_Run] = []
    for layer in sorted(by_layer, key=lambda n: -1 if n is None else n):
        cells = by_layer[layer]
        run = _Run(layer, layer, _kind(cells), dict(cells))
        if runs and layer is not None and runs[-1].last == layer - 1 and runs[-1].kind == run.kind:
            run = runs.pop()._replace(last=layer)
            for key, counts in cells.items():
                _add(run.cells, key, counts)
        runs.append(run)
    return [
        Row(run.first, run.last, module, lam, tensors, nbytes)
        for run in runs
        for (module, lam), (tensors, nbytes) in sorted(
            run.cells.items(), key=lambda c: (_ORDER.index(c[0][0]), c[0][1])
        )
    ]


def _add(cells: Cells, key: tuple[str, float], counts: tuple[int, int]) -> None:
    tensors, nbytes = cells.get(key, (0, 0))
    cells[key] = tensors + counts[0], nbytes + counts[1]


def _kind(cells: Cells) -> object:
    modules = [module for module, _ in cells]
    return {(module, lam, n if modules.count(module) > 1 else 0) for (module, lam), (n, _) in cells.items()}


def format_table(rows: Sequence[Row], show_bytes: Callable[[float], str], width: int = 120) -> str:
    """Formats `rows`: a line for each run of layers, a column for each module, and the sums below.

    Args:
        rows: from `recipe_table`.
        show_bytes: formats a number of bytes.
        width: the maximum number of characters in a line, if a single column fits.
    """
    lines: dict[str, dict[str, list[tuple[str, str, str]]]] = {}
    for row in rows:
        label = _OUTSIDE if row.first is None or row.last is None else _range(row.first, row.last)
        cell = f"{row.lam:.4g}:", f"{row.tensors:,},", show_bytes(row.nbytes)
        lines.setdefault(label, {}).setdefault(row.module, []).append(cell)
    text = ["lam: tensors, bytes"]
    for part in ({k: v for k, v in lines.items() if k == _OUTSIDE}, {k: v for k, v in lines.items() if k != _OUTSIDE}):
        text += _grid(part, max(map(len, [*lines, "layers"]), default=0), width)
    copied = [sum(r.nbytes for r in rows if r.lam == lam) for lam in (0, 1)]
    tensors, total = sum(r.tensors for r in rows), sum(r.nbytes for r in rows)
    sums = (
        f"{counted(tensors, 'tensor')}, {show_bytes(total)}: {show_bytes(total - sum(copied))} interpolated",
        f"{show_bytes(copied[0])} copied from INSTRUCT (lam 0)",
        f"{show_bytes(copied[1])} from THINKING (lam 1)",
    )
    return "\n".join([*text, "", ", ".join(sums)])


def _range(first: int, last: int) -> str:
    """Returns layers as masks are written: 12:36."""
    return f"{first}:{last + 1}" if first != last else f"{first}"


def _grid(lines: Mapping[str, Mapping[str, Sequence[tuple[str, str, str]]]], margin: int, width: int) -> list[str]:
    """Returns the lines of one grid, in several blocks below each other if it is too wide."""
    columns: list[list[list[str]]] = []  # for each module its heading, and then the cells of each label
    for module in [m for m in _ORDER if any(m in cells for cells in lines.values())]:
        stacks = [list(cells.get(module, ())) for cells in lines.values()]
        widths = [max(len(cell[i]) for stack in stacks for cell in stack) for i in range(3)]
        shown = [[" ".join(t.rjust(w) for t, w in zip(cell, widths)) for cell in stack] for stack in stacks]
        size = max(len(module), sum(widths) + 2)
        columns.append([[module.ljust(size)], *([c.ljust(size) for c in stack] for stack in shown)])
    blocks: list[list[list[list[str]]]] = []
    for column in columns:
        if blocks and margin + sum(3 + len(c[0][0]) for c in [*blocks[-1], column]) <= width:
            blocks[-1].append(column)
        else:
            blocks.append([column])
    text = []
    for block in blocks:
        text.append("")
        for i, label in enumerate(["layers" if _OUTSIDE not in lines else "", *lines]):
            for j in range(max(len(column[i]) for column in block)):
                cells = [column[i][j] if j < len(column[i]) else " " * len(column[0][0]) for column in block]
                text.append("   ".join([(label if j == 0 else "").ljust(margin), *cells]).rstrip())
    return text
