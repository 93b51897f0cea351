"""Runs all cases and prints the table of docs/safety.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from . import neighbours, ours
from .row import Row, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.robustness", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--with", dest="others", default="", help="also: mergekit (in MERGEKIT_ENV), paper")
    parser.add_argument("--only", default="", help="kinds, such as kills,flips (default: all)")
    parser.add_argument("--sample", type=int, default=40, help="attacks on each neighbour (default: 40)")
    parser.add_argument("--quick", action="store_true", help="a slice of the kills and of the errors")
    arguments = parser.parse_args()
    tools = {name: neighbours.tool(name) for name in filter(None, arguments.others.split(","))}
    steps: list[tuple[str, Callable[[], Row]]] = [
        ("kills", lambda: ours.kills(20 if arguments.quick else 1000)),
        ("faults", lambda: ours.faults(arguments.quick)),
        ("attacks", ours.attacks),
        ("flips", ours.flips),
    ]
    for tool in tools.values():
        steps += [
            ("kills", lambda tool=tool: neighbours.kills(tool)),
            ("faults", lambda tool=tool: neighbours.faults(tool)),
            ("attacks", lambda tool=tool: neighbours.attacks(tool, arguments.sample)),
        ]
    rows = []
    for kind, step in steps:
        if not arguments.only or kind in arguments.only.split(","):
            rows.append(step())
            print(rows[-1], file=sys.stderr)
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else table(rows))
    return 1 if any(row.tool == ours.NAME and row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
