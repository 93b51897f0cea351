"""Sizes in bytes, as people read them."""

from __future__ import annotations


def show_bytes(count: float) -> str:
    """Formats a number of bytes with decimal units and three digits, such as "1.19 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
