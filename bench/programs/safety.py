"""Runs mi-kernels without one of its safeguards, to measure its cost.

python -m bench.programs.safety LEFT_OUT ARGUMENTS...

LEFT_OUT: "nothing"; "checksums", which includes the quick check for values that are not finite; or "watch", the check
for values that are not finite and for identical tensors.
"""

from __future__ import annotations

import sys
from typing import Any

from mi_kernels.checksums.accumulator import Accumulator
from mi_kernels.checksums.record import FileSum, ShardSum
from mi_kernels.cli import main
from mi_kernels.merge.findings import Watch


def leave_out(what: str) -> None:
    """Removes the safeguard from this process."""

    def no_look(*_: Any) -> list[Any]:
        return []

    if what == "checksums":
        Accumulator.add = no_look  # type: ignore[method-assign]
        Accumulator.shard = lambda self, number: ShardSum(0, 0, FileSum(0, 0), {})  # type: ignore[method-assign]
    elif what == "watch":
        Watch.look = no_look  # type: ignore[assignment, method-assign]
    elif what != "nothing":
        raise SystemExit(f"{what!r} is not a safeguard; use nothing, checksums or watch")


if __name__ == "__main__":
    leave_out(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
