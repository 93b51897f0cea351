"""File to file: a whole merge as a process, compared with copying the same bytes and with other tools.

    python -m bench.files.merge                                 # ours, cp and disk; 2 x 1.19 GB like Qwen3-0.6B
    python -m bench.files.merge --model 1.7B --rounds 5 --cold  # also with the page cache dropped before each run
    python -m bench.files.merge --with torch,paper,mergekit     # also other tools; mergekit in its own environment
    python -m bench.files.merge --model 30B-A3B --most 3        # all its 18,867 tensors, shrunk to 3 GB
    python -m bench.files.merge --json bench/results/merge-0.6B.json
    python -m bench.files.merge --grow size --with torch,paper  # 0.3, 1, 3 and 10 GB; others by --sizes 0.3,1
    python -m bench.files.merge --grow threads                  # 1 to all cores, 1 GB
    python -m bench.files.merge --grow lam                      # 1, 3, 7 and 13 lam in one pass, 1 GB

The contestants alternate: each round runs all of them once, in the same order. Warm: both inputs are in the page cache.
Cold (`--cold`): they are not. Before a contestant is timed, its output is compared with the contract. Seconds include
writing the output to disk: a contestant that leaves it in the page cache is charged for the sync. A contestant that
needs more memory than is available is reported and skipped. bench/README.md describes the contestants.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import results
from ..models import MODELS, home, layout, room_for
from ..registry import Benchmark, Plot, Step
from ..report import plots
from . import contestants, grow
from .contestants import LAM, Bench
from .turns import measure, table


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.files.merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", choices=MODELS, default="0.6B", help="the model whose layout is used (default: 0.6B)"
    )
    parser.add_argument(
        "--most", type=float, metavar="GB", help="shrink the model to this size (default: what fits on the disk)"
    )
    parser.add_argument("--shards", type=int, default=1, help="files of each input (default: 1)")
    parser.add_argument("--rounds", type=int, help="runs of each contestant (default: 5; 3 with --grow)")
    parser.add_argument("--grow", choices=grow.WAYS, help="vary this, with layers of Qwen3-0.6B")
    parser.add_argument("--sizes", default=grow.SIZES, help=f"GB of each input for --grow size (default: {grow.SIZES})")
    parser.add_argument(
        "--gigabytes", type=float, default=1.0, metavar="GB", help="GB of each input for the other --grow (default: 1)"
    )
    parser.add_argument("--cold", action="store_true", help="also measure with the inputs dropped from the page cache")
    parser.add_argument(
        "--with", dest="others", default="", metavar="NAMES", help="also measure these: torch, paper, mergekit"
    )
    parser.add_argument(
        "--folder", help="the working folder, which keeps the inputs; needs three times the size of the model"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(argv)
    arguments.rounds = arguments.rounds or (3 if arguments.grow else 5)
    arguments.names = ["ours", *contestants.MEASURES, *filter(None, arguments.others.split(","))]
    if unknown := set(arguments.names) - set(contestants.NAMES):
        parser.error(f"unknown contestants: {', '.join(sorted(unknown))}")
    return arguments


def merge(place: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings and rows of one model."""
    most = room_for(place, 3)
    if arguments.most is not None:
        most = min(most, int(arguments.most * 1e9))
    wanted = layout(arguments.model, most)
    states = ["warm", *(["cold"] if arguments.cold else [])]
    print(f"{wanted.name}: {len(wanted.shapes):,} tensors, {wanted.nbytes / 1e9:.2f} GB", file=sys.stderr)
    with Bench(place, wanted, arguments.shards) as bench:
        rows = measure(bench, arguments.names, arguments.rounds, states, wanted.name)
    settings = {
        "model": wanted.name,
        "tensors": len(wanted.shapes),
        "bytes": wanted.nbytes,
        "shrink": wanted.shrink,
        "shards": arguments.shards,
        "lam": LAM,
        "cold": contestants.how_cold() if arguments.cold else None,
        "mergekit": contestants.MERGEKIT if "mergekit" in arguments.names else None,
    }
    return settings, rows


BENCHMARK = Benchmark(
    name="merge",
    command="bench.files.merge",
    table=table,
    steps={
        "merge-0.6B": Step(
            ["--cold", "--rounds", "4", "--with", "torch,paper,mergekit"],
            ["--rounds", "2", "--most", "0.2", "--with", "torch,paper"],
        ),
        "merge-1.7B": Step(["--model", "1.7B"], ["--rounds", "2", "--most", "0.2"]),
        "merge-4B": Step(["--model", "4B", "--rounds", "3"], ["--rounds", "2", "--most", "0.2"]),
        "merge-30B-A3B": Step(
            ["--model", "30B-A3B", "--most", "10", "--rounds", "3"], ["--rounds", "2", "--most", "0.2"]
        ),
    },
    plots={"merge-0.6B": Plot("merge-0.6B", "File to file", plots.contestants, (8, 2.6))},
)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    place = home(arguments.folder)
    if arguments.grow:
        settings: dict[str, Any] = {
            "grow": arguments.grow,
            "gigabytes": None if arguments.grow == "size" else arguments.gigabytes,
            "lam": LAM,
        }
        rows = grow.WAYS[arguments.grow](place, arguments)
    else:
        settings, rows = merge(place, arguments)
    print(table(rows))
    if arguments.json:
        command = results.command_line("bench.files.merge", sys.argv[1:] if argv is None else argv)
        kind = "grow" if arguments.grow else "merge"
        results.save(arguments.json, results.record(kind, command, settings, rows))


if __name__ == "__main__":
    main()
