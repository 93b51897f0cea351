"""Run `mi-kernels compare`: measure how similar two checkpoints are, overall, by module and by layer."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..checkpoint.names import MODULES, OTHER
from ..errors import counted, printable, shortened
from ..system.sizes import show_bytes
from .arguments import silence_downloads
from .colour import coloured_notes
from .early import announce, progress_of, shows
from .shell import Parser
from .text import parse_count

if TYPE_CHECKING:
    from ..compare.similarity import Measure, Similarity

_MAX_LINE = 10_000  # characters: the record of a merge may come from an untrusted folder


def add(p: Parser) -> None:
    p.add_argument("instruct", metavar="INSTRUCT", help="model folder, or Hub id ORG/NAME[@REVISION]")
    p.add_argument("thinking", metavar="THINKING", help="the other model")
    p.add_argument("--json", action="store_true", help="print the result as JSON, with the measures of every tensor")
    p.add_argument("--plot", metavar="FILE", help="draw sigma by layer and module into a .png or .svg file")
    p.add_argument("--threads", metavar="N", help="computing threads (default: all cores)")


def run(arguments: argparse.Namespace) -> int:
    from ..checkpoint.open import open_checkpoint
    from ..compare.similarity import similarity_of
    from ..merge.forecast import Forecast
    from ..merge.record import content_of, made

    silence_downloads(arguments)
    threads = parse_count(arguments.threads, "--threads")
    if arguments.plot is not None:
        from ..compare import plots

        plots.check(arguments.plot)
    models = [open_checkpoint(arguments.instruct), open_checkpoint(arguments.thinking)]
    lines = [made(content_of(model)) for model in models]
    files = [path for model in models for path in model.files]

    def early(size: int) -> None:
        if shows(arguments):
            announce(arguments, Forecast(size, [], files).measured())

    found = similarity_of(models, threads=threads, progress=progress_of(arguments), early=early)
    if arguments.plot is not None:
        plots.heat_map(found, arguments.plot)
    if arguments.json:
        content = found.as_dict()
        for side, line in zip(("instruct", "thinking"), lines):
            content[side] = {**content[side], "made": line}
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print(coloured_notes(describe(found, lines), sys.stdout))
    if arguments.plot is not None and not arguments.json:
        print(f"\nheat map: {printable(arguments.plot)}")
    return 0


def describe(found: Similarity, made: Sequence[str | None] = (None, None)) -> str:
    """Returns tables of at most 100 columns. The names of the models and the notes may be longer.

    Args:
        made: a line on how each model was merged, if it was.
    """
    lines = []
    for letter, name, line in zip("ab", found.names, made):
        lines += [f"{letter}: {printable(name)}", *([f"   {printable(line, _MAX_LINE)}"] if line else [])]
    lines += [
        f"{counted(found.overall.elements, 'element')}, {show_bytes(found.bytes_read)} read in {found.seconds:.2f} s "
        f"({found.isa}, {counted(found.threads, 'thread')})",
        "sigma = sum |a - b| / (sum |a| + sum |b|); identical = fraction of elements with a = b",
        "",
        f"{'module':<8}{_HEADINGS}{'tensors':>10}{'elements':>19}",
    ]
    lines += [
        f"{module:<8}{_figures(m)}{m.tensors:>10,}{m.elements:>19,}"
        for module, m in {**found.modules, "all": found.overall}.items()
    ]
    lines += _layers(found)
    lines += ["", *_left_out(found)] if found.left_out else []
    return "\n".join([*lines, *(f"note: {printable(note)}" for note in found.notes)])


_HEADINGS = f"{'sigma':>9}{'cosine':>11}{'max |a-b|':>11}{'identical':>11}"


def _figures(m: Measure) -> str:
    cosine = "-" if m.cosine is None else f"{_floored(m.cosine, 6):.6f}"
    return f"{_sigma(m.sigma):>9}{cosine:>11}{m.max_difference:>#11.3g}{_floored(m.identical, 4):>11.2%}"


def _layers(found: Similarity) -> list[str]:
    """Returns a row for each decoder layer: its measures, and sigma by module."""
    numbers = [layer for layer in found.layers if layer is not None]
    if not numbers:
        return []
    present = {module for layer, module in found.cells if layer is not None}
    modules = [module for module in (*MODULES, OTHER) if module in present]
    title = "sigma by module"
    lines = [
        "",
        f"{'':<50}{title:>{max(10 * len(modules), len(title)) - 1}}",
        f"{'layer':<8}{_HEADINGS}{''.join(f'{module:>10}' for module in modules)}",
    ]
    for layer in numbers:
        cells = (found.cells.get((layer, module)) for module in modules)
        by_module = "".join(f"{_sigma(cell.sigma) if cell else '-':>10}" for cell in cells)
        lines.append(f"{layer:<8}{_figures(found.layers[layer])}{by_module}")
    return lines


def _left_out(found: Similarity) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, reason in found.left_out.items():
        reasons.setdefault(reason, []).append(name)
    return [f"not compared: {printable(shortened(names))} ({reason})" for reason, names in reasons.items()]


def _sigma(value: float) -> str:
    return f"{value:.5f}" if value == 0 or value >= 1e-4 else f"{value:.1e}"


def _floored(value: float, digits: int) -> float:
    """Rounds `value` down, so that a value shown as 1 or 100 % is exact."""
    unit: float = 10.0**digits
    return math.floor(value * unit) / unit
