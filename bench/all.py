"""Measures everything that bench/results holds, and writes the report and README's figures from it.

    python -m bench.all                     # about 45 minutes on a quiet machine with two cores; 32 GB of disk
    python -m bench.all --quick             # small models, few rounds: tries every step, figures of no worth
    python -m bench.all --only memory,sweep # some steps

mergekit's environment is made on first use, or named by MERGEKIT_ENV. Each step's inputs are removed after it: all of
them would be 45 GB. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import results
from .models import home

# step: the module, its arguments, and those that make it quick. The step's name is that of its result file.
STEPS: dict[str, tuple[str, list[str], list[str]]] = {
    "memory": ("pytest", ["bench/", "-q"], ["-k", "1MiB or threads"]),
    "merge-0.6B": (
        "bench.merge",
        ["--cold", "--rounds", "4", "--with", "torch,paper,mergekit"],
        ["--rounds", "2", "--most", "0.2", "--with", "torch,paper"],
    ),
    "merge-1.7B": ("bench.merge", ["--model", "1.7B"], ["--rounds", "2", "--most", "0.2"]),
    "merge-4B": ("bench.merge", ["--model", "4B", "--rounds", "3"], ["--rounds", "2", "--most", "0.2"]),
    "merge-30B-A3B": (
        "bench.merge",
        ["--model", "30B-A3B", "--most", "10", "--rounds", "3"],
        ["--rounds", "2", "--most", "0.2"],
    ),
    "grow-size": ("bench.merge", ["--grow", "size", "--with", "torch,paper"], ["--sizes", "0.1,0.2", "--rounds", "2"]),
    "grow-threads": ("bench.merge", ["--grow", "threads"], ["--gigabytes", "0.2", "--rounds", "2"]),
    "grow-lam": ("bench.merge", ["--grow", "lam"], ["--gigabytes", "0.1", "--rounds", "2"]),
    "sweep": ("bench.sweep", ["--rounds", "2"], ["--most", "0.1", "--rounds", "2"]),
    "safety": ("bench.safety", [], ["--most", "0.05", "--rounds", "2"]),
    "methods-mergekit": ("bench.methods", ["--rounds", "2", "--with", "mergekit"], ["--most", "0.05"]),
    "methods": ("bench.methods", [], ["--most", "0.2", "--rounds", "2"]),
}
LAST = (["bench.report"], ["bench.report", "--readme"])


def command(step: str, folder: Path, quick: bool, work: str | None) -> list[str]:
    """The command line of one step, its result going to `folder`."""
    module, arguments, less = STEPS[step]
    place = ["--results" if module == "pytest" else "--json", str(folder / f"{step}.json")]
    where = ["--folder", work] if work and module != "pytest" else []
    return [sys.executable, "-m", module, *arguments, *(less if quick else []), *place, *where]


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small models and few rounds; README stays as it is")
    parser.add_argument("--only", default=",".join(STEPS), help=f"steps (default: {','.join(STEPS)})")
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="where results go")
    parser.add_argument("--folder", help="where the benchmarks work and keep their inputs")
    arguments = parser.parse_args(argv)
    steps = arguments.only.split(",")
    if unknown := set(steps) - set(STEPS):
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}")
    commands = [command(step, arguments.results, arguments.quick, arguments.folder) for step in steps]
    own = arguments.results == results.RESULTS and not arguments.quick
    commands += [[sys.executable, "-m", *last, "--results", str(arguments.results)] for last in LAST[: 1 + own]]
    for line in commands:
        started = time.perf_counter()
        print(f"== {' '.join(line[2:])}", flush=True)
        if status := subprocess.run(line).returncode:
            return status
        shutil.rmtree(home(arguments.folder) / "inputs", ignore_errors=True)
        print(f"== {time.perf_counter() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
