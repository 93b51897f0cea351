"""A sweep in one pass, compared with one merge for each lam, and with copying the same bytes.

    python -m bench.files.sweep   # 7 lam, with checkpoints like Qwen3-0.6B; needs 9 x 1.2 GB of disk
    python -m bench.files.sweep --rounds 5 --json bench/results/sweep.json

Warm: the inputs are in the page cache. Cold: the page cache is dropped before the sweep and before each merge, as if
the inputs did not fit into it. copy: reads both inputs, and copies and syncs as many bytes as the outputs have. Before
anything is timed, every output of the sweep is compared with the contract.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from .. import results
from ..models import home, parser, wanted_layout
from ..noise import show
from ..registry import Benchmark, Step
from . import contestants
from .contestants import Bench, differing
from .process import run
from .turns import rows_of, turns

LAMS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WAYS = ("sweep", "merges", "copy")


class Sweep:
    """Two inputs, and the three ways to write a model for each lam."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.runs = bench.folder / "runs"
        self.pair = [str(bench.instruct), str(bench.thinking)]

    def sweep(self) -> list[Sequence[str]]:
        lams = ",".join(map(str, LAMS))
        pattern = str(self.runs / "mi-{lam}")
        return [[*self.bench.program_of_ours(), "sweep", *self.pair, "-o", pattern, "--lam", lams, "--quiet"]]

    def merges(self) -> list[Sequence[str]]:
        program = [*self.bench.program_of_ours(), "lerp", *self.pair, "--quiet"]
        return [[*program, "-o", str(self.runs / f"mi-{lam}"), "--lam", str(lam)] for lam in LAMS]

    def copy(self) -> list[Sequence[str]]:
        a, b = self.pair
        outs = [f"{self.runs}/{i}" for i in range(len(LAMS))]
        copies = " && ".join(f"mkdir -p {out} && cp {a}/*.safetensors {out}/" for out in outs)
        return [["sh", "-c", f"{copies} && sync {self.runs}/*/* && cat {b}/*.safetensors > /dev/null"]]

    def check(self) -> None:
        """Runs the sweep, and exits if any output differs from the contract."""
        self.runs.mkdir()
        for command in self.sweep():
            run(command)
        for lam in LAMS:
            if share := differing(self.bench.instruct, self.bench.thinking, self.runs / f"mi-{lam}", lam):
                raise SystemExit(f"lam {lam} differs from the contract in {share:.2%} of the elements: not timed")
        shutil.rmtree(self.runs)

    def time(self, name: str, cold: bool) -> dict[str, Any]:
        """The figures of all commands of one way, without the preparation between them."""
        self.runs.mkdir()
        taken = {"seconds": 0.0, "cpu": 0.0}
        anonymous = 0
        for command in getattr(self, name)():
            contestants.prepare(self.bench.inputs, cold)
            result = run(command)
            taken["seconds"] += result.wall
            taken["cpu"] += result.cpu
            anonymous = max(anonymous, result.anonymous)
        shutil.rmtree(self.runs)
        os.sync()
        return {**taken, "anonymous": anonymous}


def main(argv: Sequence[str] | None = None) -> None:
    options = parser("bench.files.sweep", __doc__, rounds=3)
    arguments = options.parse_args(argv)
    wanted = wanted_layout(arguments)
    rows = []
    with Bench(home(arguments.folder), wanted) as bench:
        sweep = Sweep(bench)
        sweep.check()
        for state in ("warm", "cold"):
            runs = turns(WAYS, arguments.rounds, lambda name: sweep.time(name, state == "cold"), f"{state}: ")  # noqa: B023
            of_merges = {row["name"]: row["of_merges"] for row in rows_of(state, runs, "merges")}
            rows += [{**row, "of_merges": of_merges[row["name"]]} for row in rows_of(state, runs, "copy")]
    print(f"{len(LAMS)} lam, {wanted.name}\n{table(rows)}")
    if arguments.json:
        command = results.command_line("bench.files.sweep", sys.argv[1:] if argv is None else argv)
        settings = {"model": wanted.name, "bytes": wanted.nbytes, "points": len(LAMS), "cold": contestants.how_cold()}
        results.save(arguments.json, results.record("sweep", command, settings, rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds, their ratios to separate merges and to copy by rounds, processor seconds, memory."""
    header = ["", "seconds (min - max)", "of merges", "of copy", "CPU s", "anonymous MB"]
    lines = [
        [
            f"{row['group']}: {row['name']}",
            show(row["seconds"]),
            show(row["of_merges"]),
            show(row["of_copy"]),
            f"{row['cpu']['median']:.2f}",
            f"{row['anonymous']['max'] / 1e6:,.0f}",
        ]
        for row in rows
    ]
    return results.table(header, lines)


BENCHMARK = Benchmark(
    name="sweep",
    command="bench.files.sweep",
    table=table,
    steps={"sweep": Step(["--rounds", "2"], ["--most", "0.1", "--rounds", "2"])},
)


if __name__ == "__main__":
    main()
