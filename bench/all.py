"""Measures everything in bench/results, then writes the report and the figures of README.md.

    python -m bench.all                          # about 45 minutes on an idle machine with two cores; 32 GB of disk
    python -m bench.all --quick                  # tries every step on small models; its figures mean nothing
    python -m bench.all --only memory,sweep      # only these steps

The steps are those that the benchmarks declare (registry.py). The environment of mergekit is created on first use, or
named by MERGEKIT_ENV. The inputs of a step are deleted after it, because all of them would take 45 GB. Run nothing
else on the machine at the same time.
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
from .registry import Benchmark, Step, benchmarks

LAST = (["bench.report"], ["bench.report", "--readme"])


def steps() -> dict[str, tuple[Benchmark, Step]]:
    """Every step of every benchmark, by the name of its result file."""
    return {name: (found, step) for found in benchmarks().values() for name, step in found.steps.items()}


def command(name: str, folder: Path, quick: bool, work: str | None) -> list[str]:
    """The command line of one step, which writes its result into `folder`."""
    benchmark, step = steps()[name]
    options = [*step.arguments, *(step.quick if quick else []), "--json", str(folder / f"{name}.json")]
    options += ["--folder", work] if work and benchmark.takes_folder else []
    return [sys.executable, "-m", benchmark.command, *options]


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    known = steps()
    parser = argparse.ArgumentParser(
        prog="python -m bench.all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small models and few rounds; README.md does not change")
    parser.add_argument("--only", default=",".join(known), help=f"steps (default: {','.join(known)})")
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="the folder of the result files")
    parser.add_argument("--folder", help="the working folder of the benchmarks, which holds their inputs")
    arguments = parser.parse_args(argv)
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(known):
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}")
    commands = [command(step, arguments.results, arguments.quick, arguments.folder) for step in chosen]
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
