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


def parse_lams(text: str) -> list[float]:
    """lam values from "0.2,0.4:0.6:0.05,0.8": numbers, and START:STOP:STEP with STOP included where a step meets it.

    Steps are counted in decimal, so that 0:1:0.1 is the eleven values one would write by hand.
    """
    from decimal import Decimal, InvalidOperation

    values: list[float] = []
    for part in text.split(","):
        try:
            numbers = [Decimal(number.strip()) for number in part.split(":")]
            if not all(number.is_finite() for number in numbers):
                raise InvalidOperation
        except InvalidOperation:
            raise ArgumentError(f"lam: {part!r} is not a number or a range", "Write 0.8, or 0:1:0.1.") from None
        if len(numbers) == 1:
            values.append(float(numbers[0]))
            continue
        if len(numbers) != 3 or numbers[2] <= 0 or numbers[0] > numbers[1]:
            raise ArgumentError(f"lam: {part!r} is not START:STOP:STEP", "Write a range such as 0:1:0.1.")
        start, stop, step = numbers
        count = int((stop - start) / step) + 1
        if count > 1000:
            raise ArgumentError(f"lam: {part!r} means {count} models", "Take a larger step.")
        values += [float(start + i * step) for i in range(count)]
    return values


def show_bytes(count: float) -> str:
    """ "1.19 GB": decimal units, three digits."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
