"""The format of every result file, except those of bench.gpu.

    bench      the name of the benchmark, as its module registers it (registry.py)
    command    the command that measures it again
    machine    processor, cores, memory, system, commit, date, versions (machine.describe)
    settings   what was chosen: model, lam, rounds, ...
    rows       a list; each row has `group`, `name`, and figures

A figure is a number, a spread {min, median, max, rounds} of repeated measurements, or None if it was not measured.
Units are seconds, bytes and shares.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import machine

RESULTS = Path(__file__).parent / "results"
_PLACES = ("--json", "--folder", "--results")  # they do not change a figure

# Results measured before these modules moved into bench/files name the commands of that time.
_MOVED = re.compile(r"^python -m bench\.(merge|sweep|methods|safety|ray)\b")


def command_line(program: str, argv: Sequence[str]) -> str:
    """`python -m PROGRAM ARGUMENTS` without the options that only name files and folders."""
    kept: list[str] = []
    skip = False
    for argument in argv:
        if not skip and argument.split("=")[0] not in _PLACES:
            kept.append(argument)
        skip = argument in _PLACES
    return shlex.join(["python", "-m", program, *kept])


def record(bench: str, command: str, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A result measured on this machine, at this commit."""
    return {
        "bench": bench,
        "command": command,
        "machine": machine.describe(),
        "settings": settings,
        "rows": list(rows),
    }


def check(found: dict[str, Any]) -> None:
    """Checks the format above.

    Raises:
        ValueError: names the row and the key that are wrong.
    """
    if set(found) != {"bench", "command", "machine", "settings", "rows"}:
        raise ValueError(f"not a result file: keys {sorted(found)}")
    if missing := {"date", "processor", "cores", "commit", "versions"} - set(found["machine"]):
        raise ValueError(f"{found['bench']}: machine lacks {sorted(missing)}")
    for row in found["rows"]:
        label = f"{found['bench']}, {row.get('group')}, {row.get('name')}"
        if not isinstance(row.get("group"), str) or not isinstance(row.get("name"), str):
            raise ValueError(f"{label}: a row needs a group and a name")
        for key, value in row.items():
            if isinstance(value, dict):
                if set(value) != {"min", "median", "max", "rounds"}:
                    raise ValueError(f"{label}, {key}: a spread needs exactly min, median, max and rounds")
                if not value["min"] <= value["median"] <= value["max"]:
                    raise ValueError(f"{label}, {key}: {value} is not in order")
            elif not isinstance(value, str | int | float | None):
                raise ValueError(f"{label}, {key}: {value!r} is not a figure")


def save(path: Path, found: dict[str, Any]) -> None:
    """Writes a record as JSON with one row in each line, so that the diff of two runs is readable."""
    check(found)
    head = {key: value for key, value in found.items() if key != "rows"}
    text = json.dumps(head, indent=1).removesuffix("\n}")
    rows = ",\n  ".join(json.dumps(row) for row in found["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text},\n "rows": [\n  {rows}\n ]\n}}\n')


def load(path: Path) -> dict[str, Any]:
    """A record that `save` wrote. Its command is the one that measures it today.

    Raises:
        ValueError: see `check`.
    """
    found: dict[str, Any] = json.loads(path.read_text())
    check(found)
    return {**found, "command": _MOVED.sub(r"python -m bench.files.\1", found["command"])}


def where(found: dict[str, Any]) -> str:
    """The machine, the date and the commit of a record, in a few words."""
    machine = found["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; "
        f"{machine['date']}, commit {machine['commit']}"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal; all but the first are right-aligned."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        shown = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]
        return f"| {' | '.join(shown)} |"

    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(header), f"| {' | '.join(rule)} |", *map(line, rows)])
