"""Every benchmark, found by what its module declares.

A benchmark is one module in its folder that assigns `BENCHMARK`. `python -m bench.all` runs its steps, and
`python -m bench.report` shows its results with its table and its plots. No list has to be extended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
_DECLARATION = re.compile(r"^BENCHMARK = ", re.MULTILINE)

Record = dict[str, Any]  # the content of a result file, see results.py
Draw = Callable[[Any], None]  # draws on a matplotlib figure


class Step(NamedTuple):
    """One run of a benchmark by `bench.all`, which writes one result file.

    Attributes:
        arguments: options of the benchmark's command.
        quick: options that `--quick` appends; the last value of an option counts.
    """

    arguments: Sequence[str] = ()
    quick: Sequence[str] = ()


class Plot(NamedTuple):
    """One plot of the report.

    Attributes:
        result: the result file that it shows, without its suffix.
        caption: what the plot shows.
        make: from the result to what draws it; None if the result has no rows for this plot.
        size: width and height in inches.
    """

    result: str
    caption: str
    make: Callable[[Record], Draw | None]
    size: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What `bench.all` and `bench.report` need to know about a benchmark.

    Attributes:
        name: the value of `bench` in its result files.
        command: the module that runs it, as `python -m` takes it. The command takes `--json PATH`.
        table: from the rows of a result to Markdown.
        steps: what `bench.all` runs, by the name of the result file. Empty if the benchmark needs an environment of
            its own.
        plots: the plots of the report, by the name of their file.
        takes_folder: whether the command takes `--folder PATH`, where it keeps its inputs.
    """

    name: str
    command: str
    table: Callable[[Sequence[Record]], str]
    steps: Mapping[str, Step] = field(default_factory=dict)
    plots: Mapping[str, Plot] = field(default_factory=dict)
    takes_folder: bool = True


def declaring(folder: Path = HERE) -> list[str]:
    """The modules below `folder` that declare a benchmark, in alphabetical order. Nothing else is imported."""
    paths = sorted(path for path in folder.rglob("*.py") if _DECLARATION.search(path.read_text()))
    return [".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in paths]


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks, by name.

    Raises:
        ValueError: two benchmarks share a name, or the name of a step or a plot.
    """
    found = [import_module(module).BENCHMARK for module in declaring()]
    for what in ([b.name for b in found], [s for b in found for s in b.steps], [p for b in found for p in b.plots]):
        if twice := sorted({name for name in what if what.count(name) > 1}):
            raise ValueError(f"declared by two benchmarks: {', '.join(twice)}")
    return {benchmark.name: benchmark for benchmark in found}
