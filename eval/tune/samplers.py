"""The samplers of optuna that a search can use. All of them take two objectives.

    gp       Gaussian processes, and the expected gain of hypervolume; needs SciPy and torch
    tpe      a tree-structured Parzen estimator of all weights together
    nsga2    a genetic algorithm
    random   uniform weights: the baseline of the others

The default is what `python -m eval.tune.measure_samplers` measured to be the best on a simulated pair, see
SAMPLERS.json: after 48 candidates, a mean hypervolume of 0.880 with 4 weights and 0.881 with 12 for gp, 0.853 and 0.792
for tpe, 0.759 and 0.752 for nsga2, 0.774 and 0.714 for random. gp takes seconds for a candidate, the others
milliseconds.

optuna's CMA-ES has one objective. With a fixed weighting of accuracy and tokens it would find one point of the front,
and a weighting that changes is not the function that it adapts to, so it is not offered.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

from ..errors import EvalError

NAMES = ("gp", "tpe", "nsga2", "random")
DEFAULT = "gp"
_POPULATION = 12  # of nsga2: optuna's 50 would make a search of 48 candidates a random one
NEEDS = {"gp": ("scipy", "torch")}
_INSTALL = "Run `python -m pip install -e '.[tune]'`."


def check(name: str) -> None:
    """Raises:
    EvalError: the sampler is unknown, or a package that it needs is not installed.
    """
    if name not in NAMES:
        raise EvalError(f"unknown sampler {name!r}", f"Choose one of {', '.join(NAMES)}.")
    for module in ("optuna", *NEEDS.get(name, ())):
        if importlib.util.find_spec(module) is None:
            what = "a search" if module == "optuna" else f"the sampler {name}"
            others = f" Or choose another sampler: {', '.join(n for n in NAMES if n not in NEEDS)}."
            raise EvalError(f"{what} needs {module}, which is not installed", _INSTALL + others * (module != "optuna"))


def make(name: str, seed: int, number: int, started: int) -> Any:
    """The sampler of one candidate. Its seed follows from that of the search and the number of the candidate.

    A new one for each candidate: what a sampler knows is in the study, so a resumed search continues as if it had not
    been interrupted.

    Args:
        started: the number of candidates that the search begins with.
    """
    import numpy as np
    import optuna

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=own, n_startup_trials=max(started, 1))
        if name == "tpe":
            return optuna.samplers.TPESampler(
                seed=own, n_startup_trials=max(started, 1), multivariate=True, constant_liar=True
            )
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=own, population_size=_POPULATION)
        return optuna.samplers.RandomSampler(seed=own)
