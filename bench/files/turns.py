"""Runs contestants alternately, file to file: checks them, times them, and makes rows and a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from .. import results
from ..noise import ratios, show, spread
from .contestants import MEASURES, Bench


def turns(
    contestants: Sequence[str], rounds: int, once: Callable[[str], dict[str, Any]], label: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """Runs every contestant once in each of `rounds` rounds, and reports each run on stderr."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in contestants:
            runs[name].append(once(name))
            seconds = runs[name][-1]["seconds"]
            print(f"{label}round {number + 1} {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
    return runs


def rows_of(group: str, runs: dict[str, list[dict[str, Any]]], *bases: str) -> list[dict[str, Any]]:
    """A result row for each contestant: the spread of every figure, and for each of `bases` that ran `of_BASE`, the
    ratio of seconds by rounds."""
    found = []
    for name, taken in runs.items():
        columns = {key: [figures[key] for figures in taken] for key in taken[0]}
        row: dict[str, Any] = {"group": group, "name": name}
        row |= {key: spread(values) for key, values in columns.items()}
        for base in filter(runs.__contains__, bases):
            row[f"of_{base}"] = ratios(columns["seconds"], [figures["seconds"] for figures in runs[base]])
        found.append(row)
    return found


def check(bench: Bench, names: Sequence[str]) -> dict[str, float | None]:
    """The share of elements that differ from the contract, for each contestant.

    Raises:
        SystemExit: an element of ours differs.
    """
    shares = {name: None if name in MEASURES else bench.differing(name) for name in names}
    for name, share in shares.items():
        if name.split()[0] == "ours" and share:
            raise SystemExit(f"{name} differs from the contract in {share:.2%} of the elements: not timed")
    return shares


def measure(bench: Bench, names: Sequence[str], rounds: int, states: Sequence[str], group: str) -> list[dict[str, Any]]:
    """Checks the contestants that can run on this machine, then times them alternately; one group for each state."""
    possible = []
    for name in names:
        if reason := bench.reason_not_to(name):
            print(f"{group}: skipping {name}: {reason}", file=sys.stderr)
        else:
            possible.append(name)
    shares = check(bench, possible)
    found = []
    for state in states:
        label = f"{group}, {state}"
        runs = turns(possible, rounds, lambda name: bench.time(name, state == "cold"), f"{label}: ")  # noqa: B023
        found += [{**row, "differing": shares[row["name"]]} for row in rows_of(label, runs, *MEASURES)]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds, their ratios by rounds, processor seconds, memory, bytes from and to the disk, wrong elements."""
    memory = ["CPU s", "anonymous MB", "resident MB", "disk in/out GB", "differing"]
    header = ["", "seconds (min - max)", "of cp", "of disk", *memory]
    lines = []
    for row in rows:
        differing = row.get("differing")
        lines.append(
            [
                f"{row['group']}: {row['name']}",
                show(row["seconds"]),
                show(row["of_cp"]),
                show(row["of_disk"]) if "of_disk" in row else "",
                f"{row['cpu']['median']:.2f}",
                f"{row['anonymous']['max'] / 1e6:,.0f}",
                f"{row['resident']['max'] / 1e6:,.0f}",
                f"{row['disk_read']['median'] / 1e9:.2f} / {row['disk_written']['median'] / 1e9:.2f}",
                "" if differing is None else f"{differing:.2%}",
            ]
        )
    return results.table(header, lines)
