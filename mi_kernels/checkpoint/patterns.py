"""Compiles untrusted regular expressions of recipes and adapters. Rejects patterns that could run for hours.

Python's engine backtracks: `(a+)+b` on sixty letters practically never ends. Two kinds of patterns are rejected: those
with exponential backtracking (a repeat over a part that can itself match in several ways), and those that could take
more than `_MOST_STEPS` steps on the given names. With r open repeats, a name of n characters can be split among them in
at most C(n + r, r) ways.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

_MOST_STEPS = 10**11
_MOST_CHARACTERS = 10_000

_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


class PatternError(ValueError):
    """A pattern is not valid or could take too long. The text is the reason."""


def compiled(patterns: Sequence[str], names: Iterable[str]) -> list[re.Pattern[str]]:
    """Compiles `patterns`, which will be matched against or searched in `names`.

    Raises:
        PatternError: a pattern is not valid or could take too long on `names`.
    """
    lengths: dict[int, int] = {}
    for name in names:
        lengths[len(name)] = lengths.get(len(name), 0) + 1
    found, steps = [], 0
    for pattern in patterns:
        if len(pattern) > _MOST_CHARACTERS:
            raise PatternError(f"it is longer than {_MOST_CHARACTERS:,} characters")
        try:
            choices, repeats = _choices(_parser.parse(pattern))
            found.append(re.compile(pattern))
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            raise PatternError(str(error)) from None
        # n + 1 start positions, and for each of them all ways to split the rest among the repeats.
        steps += sum(
            count * (n + 1) * choices * math.comb(n + min(repeats, 50), min(repeats, 50))
            for n, count in lengths.items()
        )
        if steps > _MOST_STEPS:
            raise PatternError("it could take hours: use fewer repeats such as .*")
    return found


def _choices(tree: Any) -> tuple[int, int]:
    """Returns the number of ways in which a parsed expression can match, and its number of open repeats."""
    choices, repeats = 1, 0
    for kind, argument in tree:
        inner: list[tuple[int, int]] = []
        if str(kind) in _REPEATS:
            least, most, body = argument
            within = _choices(body)
            if most != 1 and within != (1, 0):
                raise PatternError("it repeats a part that can itself match in several ways")
            open_ended = most - least > 8
            inner = [within, (1 if open_ended else most - least + 1, int(open_ended))]
        elif str(kind) == "BRANCH":
            parts = [_choices(part) for part in argument[1]]
            inner = [(sum(c for c, _ in parts), max(r for _, r in parts))]
        else:
            inner = [_choices(part) for part in _parts(argument)]
        for c, r in inner:
            choices, repeats = min(choices * c, _MOST_STEPS), repeats + r
    return choices, repeats


def _parts(argument: Any) -> list[Any]:
    """Returns the expressions inside an operator that is not a repeat: groups, look-around, conditions."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    return [p for item in argument for p in _parts(item)] if isinstance(argument, (tuple, list)) else []
