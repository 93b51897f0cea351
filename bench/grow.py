"""How the cost of a merge grows with the size of the model, the number of threads, the number of lam.

`python -m bench.merge --grow` runs it; always warm, which is as warm as the machine can be where the inputs do not fit
the page cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mi_kernels.backends import cpu

from .contestants import MEASURES, Bench, differing
from .models import sized
from .process import run
from .turns import measure, rows_of, turns

LAMS = [0.8, 0.2, 0.5, 0.3, 0.4, 0.6, 0.7, 0.9, 0.1, 0.45, 0.55, 0.65, 0.75]
COUNTS = (1, 3, 7, 13)
SIZES = "0.3,1,3,10"


class Lams(Bench):
    """Several lam in one pass ("ours N"), and as many copies with the other input read ("cp N")."""

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
        """Every output of the longest sweep has the contract's bits."""
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
    """One group, all thread counts in turns; `at` is threads. cp and the disk are the same at each."""
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
    """1, 2, 4, ... and all cores."""
    powers = [1 << i for i in range(cores.bit_length()) if 1 << i < cores]
    return [*powers, cores]


WAYS: dict[str, Callable[[Path, argparse.Namespace], list[dict[str, Any]]]] = {
    "size": by_size,
    "threads": by_threads,
    "lam": by_lam,
}
