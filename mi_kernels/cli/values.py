"""Values as people write them on a command line."""

from __future__ import annotations

import re

from ..errors import ArgumentError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(text: str | None, name: str) -> int | None:
    """Bytes from "5GB" (10^9), "64MiB" (2^20) or a plain number; None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]I?)?B?", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise ArgumentError(f"{name} {text!r} is not a size", "Write a number with a unit, such as 5GB or 64MiB.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def parse_count(text: str | None, name: str) -> int | None:
    """A whole number; None stays None."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ArgumentError(f"{name} {text!r} is not a whole number", "Give one, such as 4.") from None


def show_bytes(count: float) -> str:
    """ "1.19 GB": decimal units, three digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
