"""Chains: the task of the tiny pair (`eval.tiny_pair`), 64 generated problems. The paper has no such benchmark.

The pair was not trained on any of these problems.
"""

from __future__ import annotations

import random
import re

from ..errors import EvalError
from ..schema import Benchmark, Problem, Verdict
from ..tiny_pair import task

PROBLEMS = 64
SEED = 2510

_NUMBER = re.compile(r"[0-9]+")


def load(where: str | None) -> list[Problem]:
    """Generates the problems, always the same.

    Raises:
        EvalError: `where` is given.
    """
    if where is not None:
        raise EvalError(f"the problems of chains are generated, but --data names {where}", "Remove --data chains=....")
    rng = random.Random(SEED)
    # A dictionary, so that every chain is there once.
    chains: dict[str, task.Chain] = {}
    while len(chains) < PROBLEMS:
        chain = task.draw(rng, test=True)
        chains[chain.text] = chain
    return [Problem(f"{i:02}", text, chain.values[-1]) for i, (text, chain) in enumerate(chains.items())]


def grade(reference: int, text: str) -> Verdict:
    """Whether the last number of `text` is `reference`, from 0 to 9."""
    numbers = _NUMBER.findall(text)
    if not numbers:
        return Verdict(correct=False, answer=None)
    answer = numbers[-1].lstrip("0") or "0"
    return Verdict(answer == str(reference), answer)


BENCHMARK = Benchmark(
    name="chains",
    title="Chains of 8 digits",
    samples=8,
    max_tokens=256,
    load=load,
    grade=grade,
    ks=(1, 2, 4, 8),
)
