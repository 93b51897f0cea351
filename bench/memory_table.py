"""The rows of the in-memory benchmarks as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .noise import show
from .results import table as aligned


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Microseconds, GB/s of the bytes that must move, share of the roofline, times naive torch, wrong elements."""
    header = ["", "us (min - max)", "GB/s", "of roofline", "times naive", "differing"]
    lines = []
    for row in rows:
        naive = "" if row["times_naive"] is None else f"{row['times_naive']:.2f}"
        differing = "" if row["differing"] is None else f"{row['differing']:.2%}"
        speed = f"{row['bytes_per_second'] / 1e9:.1f}"
        lines.append([row["name"], show(row["seconds"], 1e6, 1), speed, show(row["of_roofline"]), naive, differing])
    return aligned(header, lines)
