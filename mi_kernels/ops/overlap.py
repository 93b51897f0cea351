"""Which outputs share memory with something they must not, by addresses alone."""

from __future__ import annotations

from typing import Any

import numpy as np


def find_overlap(addresses: Any, sizes: Any) -> tuple[int, str, int] | None:
    """The first output that overlaps something it must not, as (index of the output, name, index of the other).

    Args:
        addresses: int64 [T, 3] of (out, a, b).
        sizes: int64 [T, 3]: their bytes.

    In place is allowed: an output that starts where its own input does and is as long. None: nothing overlaps.
    """
    rows = np.flatnonzero(sizes[:, 0])
    order = rows[np.argsort(addresses[rows, 0], kind="stable")]
    begins = addresses[order, 0]
    ends = begins + sizes[order, 0]
    clashes = np.flatnonzero(begins[1:] < ends[:-1])
    if len(clashes):
        return int(order[clashes[0] + 1]), "out", int(order[clashes[0]])
    for column, name in ((1, "a"), (2, "b")):
        begin, size = addresses[rows, column], sizes[rows, column]
        # Outputs overlap each other nowhere, so their ends are in order too, and those an input can meet start here.
        first = np.searchsorted(ends, begin, side="right")
        beyond = np.searchsorted(begins, begin + size, side="left")
        own = (begin == addresses[rows, 0]) & (size == sizes[rows, 0])
        clashes = np.flatnonzero((beyond > first) & ~own)  # in place, an input meets its own output and no other
        if len(clashes):
            return int(order[first[clashes[0]]]), name, int(rows[clashes[0]])
    return None
