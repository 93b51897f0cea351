"""A sweep in one pass, against as many separate merges, and against copying the same bytes.

    python -m bench.sweep                        # 7 points, Qwen3-0.6B's layout; needs 9 x 1.2 GB of disk
    python -m bench.sweep --rounds 5 --json bench/results/sweep.json

Cold: the page cache is dropped before each merge and before the sweep (needs root; left out otherwise), as if the
inputs did not fit it. Warm: they are in it. copy: both inputs read, the outputs' bytes written as copies, synced.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from . import machine
from .merge import Bench, read_file
from .models import MODELS
from .process import Run, run

LAMS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_DROP = Path("/proc/sys/vm/drop_caches")


class Sweep:
    """The two inputs, and the three ways to make a model for each lam."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.runs = bench.folder / "runs"

    def sweep(self) -> list[Sequence[str]]:
        lams = ",".join(map(str, LAMS))
        pattern = str(self.runs / "mi-{lam}")
        return [[self.bench.program("mi-kernels"), "sweep", *self._pair(), "-o", pattern, "--lam", lams, "--quiet"]]

    def merges(self) -> list[Sequence[str]]:
        program = self.bench.program("mi-kernels")
        return [
            [program, "lerp", *self._pair(), "-o", str(self.runs / f"mi-{lam}"), "--lam", str(lam), "--quiet"]
            for lam in LAMS
        ]

    def copy(self) -> list[Sequence[str]]:
        a, b = self._pair()
        copies = " && ".join(
            f"mkdir -p {self.runs}/{i} && cp {a}/*.safetensors {self.runs}/{i}/" for i in range(len(LAMS))
        )
        return [["sh", "-c", f"{copies} && sync {self.runs}/*/* && cat {b}/*.safetensors > /dev/null"]]

    def _pair(self) -> tuple[str, str]:
        return str(self.bench.instruct), str(self.bench.thinking)

    def time(self, name: str, cold: bool) -> float:
        """Seconds of all commands of one way; the preparation between them is not counted."""
        self.runs.mkdir()
        seconds = 0.0
        for command in getattr(self, name)():
            os.sync()
            if cold:
                _DROP.write_text("3")
            else:
                for path in (self.bench.instruct, self.bench.thinking):
                    for file in path.glob("*.safetensors"):
                        read_file(file)
            result: Run = run(command)
            seconds += result.wall
        shutil.rmtree(self.runs)
        os.sync()
        return seconds


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="0.6B", help="whose layout (default: 0.6B)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--folder", help="where to work")
    parser.add_argument("--json", help="also write the results there")
    arguments = parser.parse_args()
    states = ["warm"] + (["cold"] if os.access(_DROP, os.W_OK) else [])
    results: dict[str, dict[str, list[float]]] = {s: {"sweep": [], "merges": [], "copy": []} for s in states}
    with tempfile.TemporaryDirectory(prefix="mi-kernels-bench-", dir=arguments.folder) as name:
        sweep = Sweep(Bench(Path(name), arguments.model, 1))
        for number in range(arguments.rounds):
            for state in states:
                for way, found in results[state].items():
                    found.append(sweep.time(way, state == "cold"))
                    print(f"round {number + 1} {state} {way}: {found[-1]:.2f} s", file=sys.stderr)
    about = machine.describe()
    print(f"{len(LAMS)} lam, Qwen3-{arguments.model} layout; {about['processor']}, {about['cores']} cores")
    print(table(results))
    if arguments.json:
        content = {"machine": about, "model": arguments.model, "lams": LAMS, "results": results}
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")


def table(results: dict[str, Any]) -> str:
    """Medians, and the sweep's ratio to the separate merges and to copying, round by round."""
    lines = [f"{'':<6}{'sweep s':>9}{'merges s':>10}{'copy s':>9}{'of merges':>11}{'of copy':>9}"]
    for state, found in results.items():
        of_merges = median(s / m for s, m in zip(found["sweep"], found["merges"]))
        of_copy = median(s / c for s, c in zip(found["sweep"], found["copy"]))
        lines.append(
            f"{state:<6}{median(found['sweep']):>9.2f}{median(found['merges']):>10.2f}{median(found['copy']):>9.2f}"
            f"{of_merges:>11.2f}{of_copy:>9.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
