"""The pytest plugin of the in-memory benchmarks: the fixture `measure`, the tables, and the result file.

pytest-benchmark does the timing. Its own table is replaced by one table for each question. `--results PATH` writes the
rows in the form of bench/results.py; `--benchmark-json PATH` writes the same figures as the `extra_info` of each
benchmark.
"""

from __future__ import annotations

import shlex
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from .. import results
from ..noise import ratios, spread
from . import cases
from .run import group_table

_ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, help="write the rows to this file as JSON (see bench/results.py)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []
    config.option.benchmark_quiet = True


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> cases.Measure:
    """Checks the result of a contestant, times it and the roofline alternately, and keeps the row.

    They alternate because the memory bandwidth of a shared machine may double within a second.
    """

    def run(case: cases.Case, group: str, name: str, work: cases.Work, roofline: cases.Work, threads: int) -> None:
        floors: list[float] = []
        with cases.torch_threads(threads):
            differing = cases.checked(case, name, work)
            rounds, calls = cases.repeats(work)
            _, floor_calls = cases.repeats(roofline)
            benchmark.group, benchmark.name = group, name
            benchmark.pedantic(
                partial(cases.call, work, calls),
                setup=lambda: floors.append(cases.seconds(roofline, floor_calls)),
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
    """The speed of a row relative to naive torch, from their shares of the roofline; None if that was not measured."""
    if row["name"] == "naive torch":
        return 1.0
    naive = [other for other in rows if (other["group"], other["name"]) == (row["group"], "naive torch")]
    return row["of_roofline"]["median"] / naive[0]["of_roofline"]["median"] if naive else None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[_ROWS]
    for group, found in groupby(rows, lambda row: row["group"]):
        terminalreporter.write_line(f"\n{group}\n{group_table(list(found))}")
    path = config.getoption("--results")
    if path and rows:
        keyword = config.getoption("keyword")
        command = shlex.join(["python", "-m", "bench.memory", *(["-k", keyword] if keyword else [])])
        results.save(path, results.record("memory", command, {"lam": cases.LAM}, rows))
        terminalreporter.write_line(f"\nwritten to {path}")
