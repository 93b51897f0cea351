"""lam, the weight of the second model: one check for all callers."""

from __future__ import annotations

from typing import Any

from ..dtypes import FLOAT32_MAX
from ..errors import ArgumentError
from ..system.arguments import dimensions, short_repr

_ONE = "Give a number from 0 to 1."


def checked_lam(lam: object, extrapolate: bool = False) -> float:
    """`lam` of a command line as a float in [0, 1], or any finite one when `extrapolate`: a number, or its text.

    Raises:
        ArgumentError: not a number, not finite, or outside [0, 1] without `extrapolate`.

    >>> checked_lam("0.8")
    0.8
    """
    if isinstance(lam, str):
        try:
            lam = float(lam)
        except ValueError:
            raise ArgumentError(f"lam is {lam!r}, which is not a number", _ONE, argument="lam") from None
    return numeric_lam(lam, extrapolate)


def numeric_lam(lam: object, extrapolate: bool = False, several: str = "Give one number.") -> float:
    """`lam` of a Python call or a file as a float in [0, 1], or any finite one when `extrapolate`.

    Numbers of NumPy and torch (arrays without dimensions) are numbers. Text, true and false are not: they are mistakes
    in code, or quotes in a file.

    Args:
        several: the remedy for a list or an array, which depends on the function.

    Raises:
        ArgumentError: not one number, not finite, or outside [0, 1] without `extrapolate`.

    >>> numeric_lam(1)
    1.0
    """
    value = lam if type(lam) is float else _as_float(lam, several)
    if not abs(value) <= FLOAT32_MAX:  # nan too
        raise ArgumentError(f"lam is {value}, which is not finite", _ONE, argument="lam")
    if not 0.0 <= value <= 1.0 and not extrapolate:
        raise ArgumentError(
            f"lam is {value:g}: 0 is INSTRUCT, 1 is THINKING, and values outside extrapolate",
            "Give a number from 0 to 1, or allow it with `extrapolate=True`.",
            argument="lam",
        )
    return value


def _as_float(lam: Any, several: str) -> float:
    if isinstance(lam, (list, tuple, set, dict)) or dimensions(lam) != 0:
        raise ArgumentError(f"lam is {short_repr(lam)}, which is not one number", several, argument="lam")
    if isinstance(lam, (str, bytes, bytearray)):
        try:
            number = f" Remove the quotes: {float(lam):g}."
        except ValueError:
            number = ""
        raise ArgumentError(f"lam is {short_repr(lam)}, which is text and not a number", _ONE + number, argument="lam")
    if isinstance(lam, bool) or str(getattr(lam, "dtype", "")).endswith("bool"):
        raise ArgumentError(
            f"lam is {lam!r}, which is not a number", f"{_ONE} For true and false, write 1 and 0.", argument="lam"
        )
    try:
        return float(lam)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ArgumentError(f"lam is {short_repr(lam)}, which is not a number", _ONE, argument="lam") from None
