"""In memory: our kernels, torch, NumPy, and the same loop without arithmetic.

    python -m bench.memory                      # every size, dtype, thread count, ISA and list of tensors
    python -m bench.memory -k '1MiB or threads' # only the tests whose names match
    python -m bench.memory --json bench/results/memory.json

`pytest bench/` runs the same tests, with all options of pytest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..noise import show
from ..registry import Benchmark, Plot, Step
from ..report import plots
from ..results import table as aligned


def group_table(rows: Sequence[dict[str, Any]]) -> str:
    """Microseconds, GB/s of the bytes that must move, share of the roofline, times naive torch, wrong elements."""
    header = ["", "us (min - max)", "GB/s", "of roofline", "times naive", "differing"]
    lines = []
    for row in rows:
        naive = "" if row["times_naive"] is None else f"{row['times_naive']:.2f}"
        differing = "" if row["differing"] is None else f"{row['differing']:.2%}"
        speed = f"{row['bytes_per_second'] / 1e9:.1f}"
        lines.append([row["name"], show(row["seconds"], 1e6, 1), speed, show(row["of_roofline"]), naive, differing])
    return aligned(header, lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A table for each group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return "\n\n".join(f"{group}\n\n{group_table(found)}" for group, found in groups.items())


BENCHMARK = Benchmark(
    name="memory",
    command="bench.memory",
    table=table,
    takes_folder=False,
    steps={"memory": Step(quick=["-k", "1MiB or threads"])},
    plots={
        "memory-sizes": Plot(
            "memory",
            "bf16 tensors in memory, all threads: the share of the roofline, by size of each tensor",
            plots.memory_sizes,
            (8, 3.4),
        ),
        "memory-lists": Plot(
            "memory", "All tensors of a checkpoint in memory, all threads", plots.memory_lists, (8, 3.4)
        ),
        "memory-threads": Plot("memory", "256 MiB of bf16 in memory, by threads", plots.threads, (4.5, 3.2)),
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="run only the tests whose names match, as pytest does")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(argv)
    if find_spec("pytest_benchmark") is None:
        print("bench.memory: pytest-benchmark is missing; run `python -m pip install -e '.[bench]'`", file=sys.stderr)
        return 2
    import pytest

    options = ["-k", arguments.k] if arguments.k else []
    options += ["--results", str(arguments.json.resolve())] if arguments.json else []
    return int(pytest.main([str(Path(__file__).parent), "-q", *options]))
