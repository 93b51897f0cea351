"""Regular expressions from strangers: compiled only where a search is sure to end.

Python's engine backtracks, so `(a+)+b` on sixty letters takes longer than anybody waits. Recipes and adapters come from
anywhere, and what they want to match are names. Refused is what can try exponentially many ways (a repeat over
something that itself has a choice), and what could take more than `_MOST_STEPS` on the names at hand: with r open
repeats, a name of n characters can be shared out among them in at most C(n + r, r) ways.
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
    """A pattern that is not one, or that could take too long. Its text is the reason."""


def compiled(patterns: Sequence[str], names: Iterable[str]) -> list[re.Pattern[str]]:
    """`patterns`, to be matched or searched in `names`.

    Raises:
        PatternError: see above.
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
        # n + 1 places to begin at, and then every way to share out the rest.
        steps += sum(
            count * (n + 1) * choices * math.comb(n + min(repeats, 50), min(repeats, 50))
            for n, count in lengths.items()
        )
        if steps > _MOST_STEPS:
            raise PatternError("it could take hours: use fewer repeats such as .*")
    return found


def _choices(tree: Any) -> tuple[int, int]:
    """In how many ways a parsed expression can match, and how many open repeats it has besides."""
    choices, repeats = 1, 0
    for kind, argument in tree:
        inner: list[tuple[int, int]] = []
        if str(kind) in _REPEATS:
            least, most, body = argument
            within = _choices(body)
            if most != 1 and within != (1, 0):
                raise PatternError("it repeats what may itself match in several ways")
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
    """The expressions within an operator that is no repeat: groups, look-around, conditions."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    return [p for item in argument for p in _parts(item)] if isinstance(argument, (tuple, list)) else []
