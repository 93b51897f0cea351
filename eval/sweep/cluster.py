"""Evaluates a sweep on a Ray cluster with shared storage: one task for each (lam, benchmark).

A task runs `driver.run` in its own process, with its own engine, into the same folder as without a cluster. So finished
responses are kept, and the same command resumes the sweep, with or without the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mi_kernels.integrations.ray import merge as ray_merge
from mi_kernels.integrations.ray.cluster import Cluster
from mi_kernels.merge.api import plan_sweep

from .. import engines
from ..errors import EvalError
from ..run import driver
from ..run.driver import Subject
from ..run.settings import Choices
from ..schema import Benchmark


class Point(NamedTuple):
    """One benchmark of one model: arguments of `driver.run`."""

    model: str
    benchmark: str | Benchmark
    out: str
    subject: Subject

    @property
    def key(self) -> str:
        return f"{os.path.basename(self.out)} {driver.named(self.benchmark).name}"


class Workers:
    """The processes of `cluster` that evaluate.

    Each reserves the GPUs of its engines; if no node has GPUs, as many CPUs as the smallest node has.
    """

    def __init__(self, cluster: Cluster, options: engines.Options) -> None:
        self.cluster, self._options = cluster, options
        nodes = cluster.nodes()
        gpus = options.engines * options.tensor_parallel
        self._gpus = gpus if any(node.gpus for node in nodes) else 0
        self._cpus = options.engines if self._gpus else ray_merge.smallest(nodes)

    def merge(self, *pair: Any, **options: Any) -> None:
        """`mi_kernels.sweep_checkpoint` on the cluster."""
        ray_merge.run(plan_sweep(*pair, **options), self.cluster)

    def run(self, points: Sequence[Point], choices: Choices, done: Callable[[Point, str], None]) -> None:
        """Evaluates all `points`.

        Args:
            done: called with each finished point and the name of its node.

        Raises:
            EvalError, EngineError: see `driver.run`; finished responses are kept.
            ClusterError: the cluster failed.
        """
        by_key = {_absolute(point).key: _absolute(point) for point in points}
        data = {name: os.path.abspath(path) if os.path.exists(path) else path for name, path in choices.data.items()}
        tasks = _Tasks(by_key, replace(choices, data=data), self._options, done)
        self.cluster.run(evaluate, by_key, tasks, cpus=self._cpus, gpus=self._gpus, again=False)


def _absolute(point: Point) -> Point:
    model = os.path.abspath(point.model) if os.path.isdir(point.model) else point.model
    return point._replace(model=model, out=os.path.abspath(point.out))


class _Tasks:
    """See `mi_kernels.integrations.ray.Tasks`."""

    def __init__(
        self,
        points: dict[str, Point],
        choices: Choices,
        options: engines.Options,
        done: Callable[[Point, str], None],
    ) -> None:
        self._points, self._choices, self._options, self._done = points, choices, options, done

    def arguments(self, key: str) -> tuple[Any, ...]:
        os.makedirs(self._points[key].out, exist_ok=True)
        return self._points[key], self._choices, self._options

    def done(self, key: str, result: str) -> None:
        point = self._points[key]
        scores = os.path.join(point.out, f"{driver.named(point.benchmark).name}.scores.json")
        if not os.path.exists(scores):
            raise EvalError(f"{scores}: was written by {result} and is missing here", _SHARE)
        self._done(point, result)

    def lost(self, key: str) -> None:
        """Nothing to do: finished responses are kept."""


_SHARE = "All nodes must share the storage of the runs and of the models, under the same paths."


def evaluate(point: Point, choices: Choices, options: engines.Options) -> str:
    """Evaluates `point` on a worker; returns the name of its node."""
    node = os.uname().nodename
    if not os.path.isdir(point.out):
        raise EvalError(f"{node} does not see {point.out}", _SHARE)
    with engines.create(options) as engine:
        driver.run(point.model, [point.benchmark], point.out, engine, choices, point.subject, progress=False)
    return node
