"""python -m eval.tune.measure_samplers: which sampler finds the larger front, on a simulated pair.

A search on a real pair costs minutes to days, so samplers are compared on a surrogate of one, with many seeds. A
candidate has one weight for each of `dimensions` blocks, and, shaped after the tiny pair and the paper's Figure 2,

    Mean@k     0.3 + 0.7 * s(a),  a = the mean of the weights, weighted by (1, 2, ..., dimensions)
    tokens     5 + 60 * s(b),     b = the same, weighted by (dimensions, ..., 2, 1)
    s(x)       1 / (1 + exp(-12 (x - 0.5)))

so that late blocks make a candidate accurate, early ones make it long, and a plain lam has a = b. Mean@k has the
binomial noise of 256 responses, tokens have 2 %. Each search begins with the same 11 points of plain lam. Fronts are
chosen by the noisy values, and their hypervolume is that of the true ones.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from datetime import date

import numpy as np

from ..run.files import write_json
from . import samplers
from .front import hypervolume, undominated
from .space import Block, Space
from .study import Start, Study

_RESPONSES = 256
_LIMIT = 65.0


def true(weights: list[float]) -> tuple[float, float]:
    """Mean@k and tokens of a candidate, without noise."""
    rising = np.arange(1, len(weights) + 1)
    a, b = (float(np.average(weights, weights=w)) for w in (rising, rising[::-1]))
    return 0.3 + 0.7 * _step(a), 5 + 60 * _step(b)


def _step(x: float) -> float:
    return 1 / (1 + math.exp(-12 * (x - 0.5)))


def searched(sampler: str, seed: int, dimensions: int, evaluations: int) -> tuple[float, float]:
    """The hypervolume of a search, and the seconds that the sampler took for a candidate."""
    blocks = [Block(f"block {i}", (i, i + 1), None) for i in range(dimensions)]
    space = Space("layers", blocks, dimensions, ["ffn"])
    starts = [Start(f"lam {i / 10:g}", space.uniform(i / 10), i / 10) for i in range(11)]
    rng = np.random.default_rng([seed, dimensions])
    exact, noisy, seconds = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        study = Study(folder, space, sampler, seed, starts, len(starts) + evaluations)
        while True:
            started = time.monotonic()
            taken = study.take()
            seconds += time.monotonic() - started
            if taken is None:
                break
            given, lock = taken
            with lock:
                mean, tokens = true(list(given.weights.values()))
                exact.append((mean, tokens))
                noisy.append((rng.binomial(_RESPONSES, mean) / _RESPONSES, tokens * rng.normal(1, 0.02)))
                study.tell(given, float(noisy[-1][0]), float(noisy[-1][1]), 0, stopped=False)
    chosen = undominated(noisy)
    return hypervolume([exact[i] for i in chosen], _LIMIT), seconds / evaluations


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.tune.measure_samplers", description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", default=",".join(samplers.NAMES), metavar="LIST")
    parser.add_argument("--dimensions", default="4,12", metavar="LIST")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--evaluations", type=int, default=48, metavar="N")
    parser.add_argument("--save", metavar="FILE")
    arguments = parser.parse_args()
    found = []
    for dimensions in map(int, arguments.dimensions.split(",")):
        for name in arguments.samplers.split(","):
            results = [searched(name, seed, dimensions, arguments.evaluations) for seed in range(arguments.seeds)]
            volumes, seconds = zip(*results)
            found.append(
                {"dimensions": dimensions, "sampler": name, "hypervolumes": volumes, "seconds": float(np.mean(seconds))}
            )
            spread = f"{min(volumes):.4f} to {max(volumes):.4f}"
            print(
                f"{dimensions} weights, {name}: {np.mean(volumes):.4f} ({spread}), {np.mean(seconds):.2f} s each",
                flush=True,
            )
            if arguments.save:
                about = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "date": str(date.today())}
                write_json(arguments.save, {**about, "evaluations": arguments.evaluations, "results": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
