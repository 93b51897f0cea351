"""Splits the problems of a benchmark into those that the search sees and those that it does not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import EvalError
from ..schema import Benchmark, Problem


@dataclass(frozen=True)
class Split:
    """The problems of one benchmark.

    Attributes:
        search: in a random order, so that the first ones are a sample of all. validation: in the benchmark's order.
    """

    benchmark: Benchmark
    search: Sequence[Problem]
    validation: Sequence[Problem]

    def searched(self, problems: int, samples: int) -> Benchmark:
        """The benchmark with the first `problems` of the search, and as many samples to each."""
        return with_problems(self.benchmark, self.search[:problems], samples)

    def validated(self, samples: int) -> Benchmark:
        return with_problems(self.benchmark, self.validation, samples)


def split(benchmark: Benchmark, problems: Sequence[Problem], share: float, seed: int) -> Split:
    """Gives about `share` of `problems` to validation.

    Each problem gets a number from a hash of the seed, the benchmark and its id, and the smallest numbers are for
    validation. So the split depends on nothing else, such as the order of a file.

    Raises:
        EvalError: there are fewer than two problems.
    """
    if len(problems) < 2:
        found = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        raise EvalError(
            f"{benchmark.name}: has {found}, and a search needs some to search and some to validate",
            "Use more problems: raise --limit, or leave it out.",
        )
    order = sorted(problems, key=lambda problem: _number(benchmark.name, problem.id, seed))
    count = min(max(1, math.floor(share * len(problems) + 0.5)), len(problems) - 1)
    unseen = {problem.id for problem in order[:count]}
    return Split(benchmark, order[count:], [p for p in problems if p.id in unseen])


def with_problems(benchmark: Benchmark, problems: Sequence[Problem], samples: int) -> Benchmark:
    return replace(benchmark, samples=samples, load=lambda where: problems)


def _number(benchmark: str, problem: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{benchmark}\n{problem}".encode()).digest()
