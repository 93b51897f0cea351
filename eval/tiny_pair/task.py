"""The task of the tiny pair: chains of labelled digits, worked out from left to right modulo 10.

    a9b-6c*7d+8  ->  ((9 - 6) * 7 + 8) % 10 = 9

The digit after `*` is often 0 or 5, after which the previous values matter little. So an answer without working is
correct about a quarter of the time.

An answer is written in one of three styles:

    direct    =9
    brief     a9b3c1d9=9                                     the running values
    worked    <think>a9b-6=3c*7=1d+8=9</think>=9             each step copied, then computed
              <think>a9b-6=3c*7=1d+8=9;a9b-6=3...</think>=9  repeated once or twice, as a check
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

LABELS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 8
OPERATORS = "+++---*"
TEST_ONE_IN = 16


@dataclass(frozen=True)
class Chain:
    """A chain of `LENGTH` digits or fewer.

    Attributes:
        digits: each from 0 to 9. operators: of `+-*`, one before each digit except the first.
    """

    digits: Sequence[int]
    operators: str

    @property
    def text(self) -> str:
        return "".join(self.step(i) for i in range(len(self.digits)))

    @property
    def values(self) -> list[int]:
        """The running value after each digit."""
        values = [self.digits[0]]
        for operator, digit in zip(self.operators, self.digits[1:]):
            values.append(_apply(operator, values[-1], digit))
        return values

    def step(self, i: int) -> str:
        operator = self.operators[i - 1] if i else ""
        return f"{LABELS[i]}{operator}{self.digits[i]}"


def _apply(operator: str, value: int, digit: int) -> int:
    if operator == "+":
        return (value + digit) % 10
    if operator == "-":
        return (value - digit) % 10
    return value * digit % 10


def is_test(chain: Chain) -> bool:
    """Whether a chain is reserved for tests. A checksum of the text decides, so no list is needed."""
    return zlib.crc32(chain.text.encode()) % TEST_ONE_IN == 0


def draw(rng: random.Random, length: int = LENGTH, *, test: bool = False) -> Chain:
    """Draws a chain of the training set, or of the test set."""
    while True:
        operators = "".join(rng.choice(OPERATORS) for _ in range(length - 1))
        chain = Chain([rng.randrange(10), *(_digit_after(operator, rng) for operator in operators)], operators)
        if is_test(chain) == test:
            return chain


def _digit_after(operator: str, rng: random.Random) -> int:
    if operator == "*" and rng.random() < 0.3:
        return rng.choice((0, 5))
    return rng.randrange(10)


def direct(chain: Chain) -> str:
    return f"={chain.values[-1]}"


def brief(chain: Chain) -> str:
    running = "".join(f"{label}{value}" for label, value in zip(LABELS, chain.values))
    return running + direct(chain)


def worked(chain: Chain, checks: int) -> str:
    """The working, repeated `checks` times, and the answer."""
    values = chain.values
    steps = [chain.step(0), *(f"{chain.step(i)}={values[i]}" for i in range(1, len(values)))]
    return f"<think>{';'.join([''.join(steps)] * (1 + checks))}</think>{direct(chain)}"
