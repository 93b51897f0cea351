"""The cost of a merge as the model, the number of threads, or the number of lam grows.

Run by `python -m bench.files.merge --grow`. The state is always "warm": the inputs are read before each run, but inputs
larger than the page cache do not stay in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mi_kernels.backends import cpu

from ..models import sized
from ..registry import Benchmark, Plot, Step
from ..report import plots
from .contestants import MEASURES, Bench, differing
from .process import run
from .turns import measure, rows_of, table, turns

LAMS = [0.8, 0.2, 0.5, 0.3, 0.4, 0.6, 0.7, 0.9, 0.1, 0.45, 0.55, 0.65, 0.75]
COUNTS = (1, 3, 7, 13)
SIZES = "0.3,1,3,10"


class Lams(Bench):
    """N lam in one pass ("ours N"), and N copies of one input while the other is read ("cp N")."""

    def command(self, name: str) -> Sequence[str]:
        what, count = name.split()
        lams = LAMS[: int(count)]
        a, b = map(str, (self.instruct, self.thinking))
        if what == "cp":
            outs = [f"{self.out}/{i}" for i in range(len(lams))]
            copies = " && ".join(f"mkdir -p {out} && cp {a}/*.safetensors {out}/" for out in outs)
            return ["sh", "-c", f"{copies} && sync {self.out}/*/* && cat {b}/*.safetensors > /dev/null"]
        pattern = str(self.out / "mi-{lam}")
        return [*self.program_of_ours(), "sweep", a, b, "-o", pattern, "--lam", ",".join(map(str, lams)), "--quiet"]

    def check(self) -> None:
        """Runs the longest sweep, and exits if any output differs from the contract."""
        run(self.command(f"ours {max(COUNTS)}"))
        for lam in LAMS:
            if share := differing(self.instruct, self.thinking, self.out / f"mi-{lam}", lam):
                raise SystemExit(f"lam {lam} differs from the contract in {share:.2%} of the elements: not timed")
        self.clear()


def by_size(place: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A group for each size; `at` is gigabytes."""
    found = []
    for gigabytes in map(float, arguments.sizes.split(",")):
        wanted = sized(gigabytes)
        with Bench(place, wanted) as bench:
            rows = measure(bench, arguments.names, arguments.rounds, ["warm"], wanted.name)
        found += [{**row, "at": wanted.nbytes / 1e9} for row in rows]
    return found


def by_threads(place: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One group, in which all thread counts alternate; `at` is threads. cp and disk do not depend on it."""
    counts = thread_counts(cpu.default_threads())
    names = [*MEASURES, *(f"ours --threads {n}" for n in counts)]
    with Bench(place, sized(arguments.gigabytes)) as bench:
        rows = measure(bench, names, arguments.rounds, ["warm"], "threads")
    return [{**row, "at": int(row["name"].split()[-1])} for row in rows if row["name"] not in MEASURES]


def by_lam(place: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A group for each number of lam; `at` is that number."""
    found = []
    with Lams(place, sized(arguments.gigabytes)) as bench:
        bench.check()
        for count in COUNTS:
            names = [f"ours {count}", f"cp {count}"]
            runs = turns(names, arguments.rounds, bench.time)
            named = {name.split()[0]: found_runs for name, found_runs in runs.items()}
            rows = rows_of(f"{count} lam", named, "cp")
            found += [{**row, "at": count, "differing": 0.0 if row["name"] == "ours" else None} for row in rows]
    return found


def thread_counts(cores: int) -> list[int]:
    """Powers of two below `cores`, and `cores`."""
    powers = [1 << i for i in range(cores.bit_length()) if 1 << i < cores]
    return [*powers, cores]


WAYS: dict[str, Callable[[Path, argparse.Namespace], list[dict[str, Any]]]] = {
    "size": by_size,
    "threads": by_threads,
    "lam": by_lam,
}

_SIZE = partial(plots.growth, across="GB of each input")
_SHAPE = (4.5, 3.2)
BENCHMARK = Benchmark(
    name="grow",
    command="bench.files.merge",
    table=table,
    steps={
        "grow-size": Step(["--grow", "size", "--with", "torch,paper"], ["--sizes", "0.1,0.2", "--rounds", "2"]),
        "grow-threads": Step(["--grow", "threads"], ["--gigabytes", "0.2", "--rounds", "2"]),
        "grow-lam": Step(["--grow", "lam"], ["--gigabytes", "0.1", "--rounds", "2"]),
    },
    plots={
        "grow-size": Plot("grow-size", "Seconds as the model grows", _SIZE, _SHAPE),
        "grow-size-memory": Plot(
            "grow-size", "Peak anonymous memory as the model grows", partial(_SIZE, figure_of="anonymous"), _SHAPE
        ),
        "grow-threads": Plot(
            "grow-threads", "Seconds by threads, file to file", partial(plots.growth, across="threads"), _SHAPE
        ),
        "grow-lam": Plot(
            "grow-lam",
            "Seconds by the number of lam in one pass, against as many copies",
            partial(plots.growth, across="lam in one pass"),
            _SHAPE,
        ),
    },
)
