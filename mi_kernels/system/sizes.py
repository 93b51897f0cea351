"""Sizes and counts, as people write and read them."""

from __future__ import annotations

import operator
import re
from typing import Any

from ..errors import ArgumentError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_LEAST_WITHOUT_UNIT = 10**6  # "5" most likely means 5GB; nobody writes a megabyte and more by mistake
_LEAST_NUMBER = 10**3  # of a number in Python, where bytes are usual


def parse_size(text: str | None, name: str) -> int | None:
    """Parses a size in bytes: "5GB" (10^9), "64MiB" (2^20), "4096B", or a plain number from a million. None for None.

    Raises:
        ArgumentError: not a size, or a small number without a unit. The message uses `name` for the option.

    >>> parse_size("64MiB", "max_memory")
    67108864
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]I?)?(B?)", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if match is None or float(match[1]) == 0 or (match[3] and size == 0):
        raise ArgumentError(f"{name} {text!r} is not a size", "Use a number with a unit, such as 5GB or 64MiB.")
    if not match[2] and not match[3] and size < _LEAST_WITHOUT_UNIT:
        raise ArgumentError(
            f"{name} {text!r} is a number of bytes without a unit, and less than 1 MB",
            (f"Did you mean {match[1]}GB? " if float(match[1]) < 1000 else "")
            + f"Write the unit: {match[1]}MB, or {match[1]}B for bytes.",
        )
    return size


def checked_size(value: Any, name: str) -> int | None:
    """Returns a size that Python code gives, in bytes: a whole number, or text as `parse_size` reads it. None for None.

    Raises:
        ArgumentError: neither, not positive, or less than a thousand, which is most likely a number of GB.

    >>> checked_size("5GB", "max_shard_size"), checked_size(4096, "max_memory")
    (5000000000, 4096)
    """
    if value is None or isinstance(value, str):
        return parse_size(value, name)
    try:
        if isinstance(value, bool):
            raise TypeError
        size = operator.index(value)
    except TypeError:
        raise ArgumentError(
            f"{name} is {value!r:.80}, which is not a size", "Give a number of bytes, or text such as '5GB'."
        ) from None
    if size <= 0:
        raise ArgumentError(f"{name} is {size:,}", "Give a positive number of bytes, or text such as '5GB'.")
    if size < _LEAST_NUMBER:
        raise ArgumentError(f"{name} is {size} bytes", f"Did you mean '{size}GB'? Text may have a unit: '{size}MiB'.")
    return size


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
