"""Runs every case and counts the outcomes, see the package."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .session import Session, Unavailable
from .table import Disk, Tally, campaign


def count(every_errno: bool = True) -> Tally:
    """Returns the outcome of every fault of every command.

    Raises:
        Unavailable: faults cannot be injected on this system.
    """
    tally = Tally(Counter(), Counter(), [])
    with tempfile.TemporaryDirectory() as folder:
        with Session(Path(folder)) as session:
            disk = Disk(Path(folder), session)
            campaign(disk, list(disk.commands()), tally, every_errno)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.faults", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="one errno for each call, not all")
    arguments = parser.parse_args()
    try:
        found = count(not arguments.quick).as_dict()
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{found['injected']} faults: {found['refused']} refused, {found['survived']} survived", end="")
        print(*["; none did harm"] if not found["violations"] else ["", *map(str, found["violations"])], sep="\n")
    return 1 if found["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
