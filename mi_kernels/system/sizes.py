"""Sizes and counts, as people read them."""

from __future__ import annotations


def show_bytes(count: float) -> str:
    """Formats a number of bytes with decimal units and three digits, such as "1.19 GB"."""
    return _scaled(count, (" B", " kB", " MB", " GB", " TB"))


def show_count(count: float) -> str:
    """Formats a large number with three digits and a unit, such as "826 k", "4.02 B" (10^9) or "1.04 T"."""
    return _scaled(count, ("", " k", " M", " B", " T"))


def _scaled(count: float, units: tuple[str, ...]) -> str:
    if count < 1000:
        return f"{count:.0f}{units[0]}"
    for unit in units[1:]:
        count /= 1000
        if count < 999.5 or unit == units[-1]:  # 999.5 would be shown with four digits
            break
    return f"{count:.3g}{unit}" if count < 999.5 else f"{count:,.0f}{unit}"
