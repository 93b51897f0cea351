"""Runs the attacks and prints the outcome of each."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict

from .run import Limits, as_expected, chosen, expected, foreign, ours, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="patterns of FAMILY/NAME; all attacks without any")
    parser.add_argument("--json", action="store_true", help="print {FAMILY/NAME: outcome}")
    parser.add_argument("--command", help="another program's command line, with {a} {b} or {config}, and {out}")
    parser.add_argument("--seconds", type=int, default=30, help="processor time of an attack at most (default: 30)")
    parser.add_argument("--wait", type=int, default=300, help="seconds until it counts as hanging (default: 300)")
    parser.add_argument("--memory", type=int, default=1536, help="limit of resident memory in MiB (default: 1536)")
    arguments = parser.parse_args()
    tool = ours if arguments.command is None else foreign(arguments.command)
    if tool is ours:  # once, before the forks
        import mi_kernels.cli.compare
        import mi_kernels.cli.inspect
        import mi_kernels.cli.merging
        import mi_kernels.cli.verify
        import mi_kernels.merge.sources
        import mi_kernels.recipe.load  # noqa: F401
    limits = Limits(arguments.seconds, arguments.wait, arguments.memory << 20)
    results, wrong = {}, 0
    for attack in chosen(arguments.names):
        outcome = run(attack, tool, limits)
        if outcome is None:
            continue
        right = as_expected(attack, outcome) if tool is ours else None
        wrong += right is False
        name = f"{attack.family}/{attack.name}"
        results[name] = {**asdict(outcome), "expected": expected(attack), "words": attack.words, "right": right}
        if not arguments.json:
            print(
                f"{'  ' if right is not False else '! '}{outcome.verdict:<10}{outcome.seconds:6.2f} s "
                f"{outcome.resident >> 20:5} MiB  {name}",
                *([] if right else [f"    {outcome.detail[:600]!r}"]),
                sep="\n",
            )
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        counts = Counter(r["verdict"] for r in results.values())
        shown = ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())
        print(f"{len(results)} attacks: {shown}; {wrong} not as they must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
