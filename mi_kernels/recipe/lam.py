"""lam, the weight of the second model: one check for all callers."""

from __future__ import annotations

from ..errors import ArgumentError

FLOAT32_MAX = 3.4028234663852886e38  # parameters are rounded to float32


def checked_lam(lam: object, extrapolate: bool = False) -> float:
    """`lam` as a float in [0, 1], or any finite one when `extrapolate`.

    Raises:
        ArgumentError: not a number, not finite, or outside [0, 1] without `extrapolate`.

    >>> checked_lam("0.8")
    0.8
    """
    try:
        value = float(lam)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(
            f"lam is {lam!r}, which is not a number", "Give a number from 0 to 1.", argument="lam"
        ) from None
    if not abs(value) <= FLOAT32_MAX:  # nan too
        raise ArgumentError(f"lam is {value}, which is not finite", "Give a number from 0 to 1.", argument="lam")
    if not 0.0 <= value <= 1.0 and not extrapolate:
        raise ArgumentError(
            f"lam is {value:g}: 0 is INSTRUCT, 1 is THINKING, and values outside extrapolate",
            "Give a number from 0 to 1, or allow it with `extrapolate=True`.",
            argument="lam",
        )
    return value
