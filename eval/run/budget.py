"""What a session may spend: `--time 4h` and `--tokens 50M`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from mi_kernels.system.duration import show_left
from mi_kernels.system.sizes import show_count

from ..errors import EvalError

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
_TIMES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_LEAST_PLAIN_TOKENS = 1000  # "50" most likely means 50M
_PART = r"([0-9]+(?:\.[0-9]+)?)(d|h|min|m|s)"


class BudgetReached(EvalError):
    """A session has spent its budget. Everything that was finished is kept, and the same command resumes."""


class Budget:
    """Seconds and generated tokens, counted from its creation: every session of a run has the whole budget again.

    Tokens of responses that were dropped are spent, too.

    Args:
        seconds, tokens: None means no limit. clock: returns seconds.

    Example:
        >>> budget = Budget(tokens=1000)
        >>> budget.spend(900)
        >>> budget.over(), budget.over(in_flight=100)
        (False, True)
    """

    def __init__(
        self, seconds: float | None = None, tokens: int | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        self.seconds, self.tokens = seconds, tokens
        self.spent = 0
        self._clock = clock or time.monotonic
        self._start = self._clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the session began."""
        return self._clock() - self._start

    @property
    def limited(self) -> bool:
        return self.seconds is not None or self.tokens is not None

    def spend(self, tokens: int) -> None:
        self.spent += tokens

    def over(self, in_flight: int = 0) -> bool:
        """Whether nothing is left. `in_flight`: tokens of responses that are not finished and not spent yet."""
        late = self.seconds is not None and self.elapsed >= self.seconds
        return late or (self.tokens is not None and self.spent + in_flight >= self.tokens)

    def share(self, seconds: float | None, tokens: float) -> float:
        """The part of work of so many seconds and tokens that the rest of the budget pays for, at most 1."""
        shares = [1.0]
        if self.seconds is not None and seconds:
            shares.append(max(0.0, self.seconds - self.elapsed) / seconds)
        if self.tokens is not None and tokens:
            shares.append(max(0, self.tokens - self.spent) / tokens)
        return min(shares)

    def __str__(self) -> str:
        """ "4 h 0 min", "50 M tokens", or both."""
        limits = [show_left(self.seconds)] if self.seconds is not None else []
        limits += [f"{show_count(self.tokens)} tokens"] if self.tokens is not None else []
        return " and ".join(limits) or "no limit"

    def reached(self) -> BudgetReached:
        return BudgetReached(
            f"the budget of {self} is spent: {show_left(self.elapsed)} and {self.spent:,} tokens in this session",
            "Run the same command again to resume. Every session has a new budget.",
        )


def parse_time(text: str | None, name: str = "--time") -> float | None:
    """Parses a duration in seconds: "4h", "90m", "1h30m", "3600s", "2d". None for None.

    Raises:
        EvalError: not a duration, without a unit, or zero.

    >>> parse_time("1h30m")
    5400.0
    """
    if text is None:
        return None
    given = text.strip().lower().replace(" ", "")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", given):
        raise EvalError(f"{name} {text!r} has no unit", f"Write the unit: {given}s, {given}m or {given}h.")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, given))
    if not re.fullmatch(f"(?:{_PART})+", given) or not 0 < seconds < float("inf"):
        raise EvalError(f"{name} {text!r} is not a duration", "Use a duration such as 4h, 90m, 1h30m or 3600s.")
    return seconds


def parse_tokens(text: str | None, name: str = "--tokens") -> int | None:
    """Parses a number of tokens: "50M", "2G", "500K", or a plain number from a thousand. None for None.

    Raises:
        EvalError: not a number, or a small one without a unit.

    >>> parse_tokens("1.5M"), parse_tokens("50000")
    (1500000, 50000)
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([KMGB]?)", re.sub(r"[,_ ]", "", text).upper())
    tokens = round(float(match[1]) * _TIMES[match[2]]) if match else 0
    if match is None or tokens < 1:
        raise EvalError(f"{name} {text!r} is not a number of tokens", "Use a number such as 50M, 2G or 500K.")
    if not match[2] and tokens < _LEAST_PLAIN_TOKENS:
        raise EvalError(
            f"{name} {text!r} has no unit, and is less than one long answer",
            f"Did you mean {match[1]}M? Use a number such as 50M, 2G or 500K.",
        )
    return tokens
