"""Parse sizes, counts and lam values of a command line, and format sizes."""

from __future__ import annotations

from ..errors import ArgumentError
from ..system.sizes import parse_size as parse_size
from ..system.sizes import show_bytes as show_bytes


def parse_count(text: str | None, name: str) -> int | None:
    """Parses an integer. Returns None for None.

    Raises:
        ArgumentError: not an integer. The message uses `name` for the option.
    """
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ArgumentError(f"{name} {text!r} is not an integer", "Use a number such as 4.") from None


def parse_lams(text: str) -> list[float]:
    """Parses lam values such as "0.2,0.4:0.6:0.05,0.8": numbers, and ranges START:STOP:STEP.

    A range includes STOP if a step reaches it. Steps are computed in decimal, so that 0:1:0.1 has exactly the eleven
    values 0, 0.1, ..., 1.

    Raises:
        ArgumentError: a part is neither a number nor a range, or a range has more than 1000 values.
    """
    from decimal import Decimal, InvalidOperation

    values: list[float] = []
    for part in text.split(","):
        try:
            numbers = [Decimal(number.strip()) for number in part.split(":")]
            if not all(number.is_finite() for number in numbers):
                raise InvalidOperation
        except InvalidOperation:
            raise ArgumentError(
                f"lam: {part!r} is not a number or a range",
                "Use a number such as 0.8, or a range such as 0:1:0.1.",
                argument="lam",
            ) from None
        if len(numbers) == 1:
            values.append(float(numbers[0]))
            continue
        if len(numbers) != 3 or numbers[2] <= 0 or numbers[0] > numbers[1]:
            raise ArgumentError(
                f"lam: {part!r} is not START:STOP:STEP with START <= STOP and STEP > 0",
                "Use a range such as 0:1:0.1.",
                argument="lam",
            )
        start, stop, step = numbers
        count = int((stop - start) / step) + 1
        if count > 1000:
            raise ArgumentError(
                f"lam: {part!r} has {count:,} values, more than 1,000", "Use a larger step.", argument="lam"
            )
        values += [float(start + i * step) for i in range(count)]
    return values
