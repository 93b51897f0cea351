"""The cost of the safeguards: `mi-kernels lerp` with and without its checksums, and its check of values.

    python -m bench.files.safety   # 21 rounds, with checkpoints like Qwen3-0.6B

All inputs are in the page cache. The contestants alternate, and the ratios are those of whole processes in the same
round.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from .. import results
from ..models import home, parser, wanted_layout
from ..noise import ratios, show
from ..registry import Benchmark, Step
from .contestants import LAM, Bench
from .turns import rows_of, turns

WAYS = {"ours": "nothing", "without checksums": "checksums", "without looking at values": "watch"}


class Safety(Bench):
    """The same merge with all safeguards, or without one of them."""

    def command(self, name: str) -> Sequence[str]:
        arguments = ["lerp", str(self.instruct), str(self.thinking), "-o", str(self.out), "--lam", str(LAM), "--quiet"]
        return [sys.executable, "-m", "bench.programs.safety", WAYS[name], *arguments]


def rows(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each way. `costs` and `costs_cpu`: ours / this way by rounds, in seconds and in processor seconds."""
    found = rows_of("warm", runs)
    for row in found:
        for key, of in (("costs", "seconds"), ("costs_cpu", "cpu")):
            row[key] = ratios([run[of] for run in runs["ours"]], [run[of] for run in runs[row["name"]]])
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds and processor seconds, each with the ratio of ours to this way."""
    header = ["", "seconds (min - max)", "ours / this", "CPU s", "ours / this"]
    lines = [
        [row["name"], show(row["seconds"]), show(row["costs"]), show(row["cpu"]), show(row["costs_cpu"])]
        for row in rows
    ]
    return results.table(header, lines)


BENCHMARK = Benchmark(
    name="safety",
    command="bench.files.safety",
    table=table,
    steps={"safety": Step(quick=["--most", "0.05", "--rounds", "2"])},
)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser("bench.files.safety", __doc__, rounds=21).parse_args(argv)
    wanted = wanted_layout(arguments)
    with Safety(home(arguments.folder), wanted) as bench:
        if share := bench.differing("ours"):
            raise SystemExit(f"ours differs from the contract in {share:.2%} of the elements: not timed")
        found = rows(turns(list(WAYS), arguments.rounds, bench.time))
    print(f"{wanted.name}, warm, synced\n{table(found)}")
    if arguments.json:
        command = results.command_line("bench.files.safety", sys.argv[1:] if argv is None else argv)
        settings = {"model": wanted.name, "bytes": wanted.nbytes, "lam": LAM}
        results.save(arguments.json, results.record("safety", command, settings, found))


if __name__ == "__main__":
    main()
