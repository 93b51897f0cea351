"""File to file: a whole merge as a process, against copying the same bytes and against the neighbours.

    python -m bench.merge                                   # ours and cp, Qwen3-0.6B's layout (2 x 1.19 GB)
    python -m bench.merge --model 1.7B --rounds 5 --cold    # and with the page cache dropped before each run
    python -m bench.merge --with torch,paper,mergekit       # the neighbours too; mergekit in an environment of its own
    python -m bench.merge --model 30B-A3B --most 3          # all its 18,867 tensors, shrunk to 3 GB
    python -m bench.merge --json bench/results/merge-0.6B.json
    python -m bench.merge --grow size --with torch,paper    # 0.3, 1, 3 and 10 GB; also --sizes 0.3,1
    python -m bench.merge --grow threads                    # 1 to all cores, 1 GB
    python -m bench.merge --grow lam                        # 1, 3, 7 and 13 lam in one pass, 1 GB

Contestants take turns, each round in the same order, with both inputs in the page cache (warm), and again without
(`--cold`). Every merge's output is compared with the contract before its time counts. cp is: copy one checkpoint,
`sync` the copy, `cat` the other one. Seconds are until the output is on the disk: who leaves it in the page cache
is charged for syncing it. Who needs more memory than there is is left out, and named. Inputs are made once and kept in
the working folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import contestants, grow, results
from .contestants import LAM, Bench
from .models import MODELS, home, layout, room_for
from .turns import measure, table


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="0.6B", help="whose layout (default: 0.6B)")
    parser.add_argument("--most", type=float, metavar="GB", help="shrink the model to this (default: to fit the disk)")
    parser.add_argument("--shards", type=int, default=1, help="files of each input (default: 1)")
    parser.add_argument("--rounds", type=int, help="runs of each contestant (default: 5; 3 with --grow)")
    parser.add_argument("--grow", choices=grow.WAYS, help="vary this, on layers of Qwen3-0.6B")
    parser.add_argument("--sizes", default=grow.SIZES, help=f"GB of each input, to grow (default: {grow.SIZES})")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each input, to grow the rest (default: 1)")
    parser.add_argument("--cold", action="store_true", help="also with the inputs out of the page cache")
    parser.add_argument("--with", dest="others", default="", help="also: torch, paper, mergekit")
    parser.add_argument("--folder", help="where to work and keep the inputs; needs three times the model's size")
    parser.add_argument("--json", type=Path, help="also write the results there")
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
        command = results.command_line("bench.merge", sys.argv[1:] if argv is None else argv)
        kind = "grow" if arguments.grow else "merge"
        results.save(arguments.json, results.record(kind, command, settings, rows))


if __name__ == "__main__":
    main()
