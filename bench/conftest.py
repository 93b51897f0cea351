"""`pytest bench/`: our columns beside every timing, and our result file.

pytest-benchmark times; its own table gives way to one that answers a question a group. `--results PATH` writes the rows
in the form of `bench.results`; `--benchmark-json PATH` holds the same figures as each benchmark's extra_info.
"""

from __future__ import annotations

import shlex
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from . import memory, results
from .memory_table import table
from .noise import ratios, spread

_ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, help="write the rows there as JSON (see bench/results.py)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []
    config.option.benchmark_quiet = True


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> memory.Measure:
    """Checks a contestant's result, times it and the roofline in turns, and notes the row.

    In turns, because a machine that others share may have twice the memory bandwidth a second later.
    """

    def run(case: memory.Case, group: str, name: str, work: memory.Work, roofline: memory.Work, threads: int) -> None:
        floors: list[float] = []
        with memory.torch_threads(threads):
            differing = memory.checked(case, name, work)
            rounds, calls = memory.repeats(work)
            _, floor_calls = memory.repeats(roofline)
            benchmark.group, benchmark.name = group, name
            benchmark.pedantic(
                partial(memory.call, work, calls),
                setup=lambda: floors.append(memory.seconds(roofline, floor_calls)),
                rounds=rounds,
            )
        taken = [seconds / calls for seconds in benchmark.stats.stats.data]
        seconds = spread(taken)
        row = {"group": group, "name": name, "seconds": seconds, "threads": threads, "dtype": case.dtype}
        row |= {"bytes": 3 * case.nbytes, "bytes_per_second": 3 * case.nbytes / seconds["median"]}
        row["of_roofline"] = ratios(floors, taken)
        rows = request.config.stash[_ROWS]
        row |= {"times_naive": _times_naive(row, rows), "differing": differing}
        benchmark.extra_info |= {"calls": calls, **{key: row[key] for key in row.keys() - {"group", "name", "seconds"}}}
        rows.append(row)

    return run


def _times_naive(row: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """How many times as fast as naive torch a row is, by their shares of the roofline; None where none was measured."""
    if row["name"] == "naive torch":
        return 1.0
    naive = [other for other in rows if (other["group"], other["name"]) == (row["group"], "naive torch")]
    return row["of_roofline"]["median"] / naive[0]["of_roofline"]["median"] if naive else None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[_ROWS]
    for group, found in groupby(rows, lambda row: row["group"]):
        terminalreporter.write_line(f"\n{group}\n{table(list(found))}")
    path = config.getoption("--results")
    if path and rows:
        keyword = config.getoption("keyword")
        command = shlex.join(["pytest", "bench/", *(["-k", keyword] if keyword else [])])
        results.save(path, results.record("memory", command, {"lam": memory.LAM}, rows))
        terminalreporter.write_line(f"\nwritten to {path}")
