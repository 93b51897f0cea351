"""Evaluates a sweep on a Ray cluster with shared storage.

A point is one benchmark at one lam. Where points are merges that an engine holds without a folder, a task evaluates
several of them with one start of its engine: as many tasks as the cluster runs at a time share the points. Otherwise
there is one task for each point.

A task runs `driver.run` in its own process, with its own engine, into the same folder as without a cluster. So finished
responses are kept, and the same command resumes the sweep, with or without the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mi_kernels.integrations.ray import merge as ray_merge
from mi_kernels.integrations.ray.cluster import Cluster, Node
from mi_kernels.merge.api import plan_sweep

from .. import engines
from ..engines.live_pair import LivePair
from ..errors import EvalError
from ..run import driver
from ..run.driver import Subject
from ..run.settings import Choices, longest, make_part
from ..schema import Benchmark


class Point(NamedTuple):
    """One benchmark of one model: arguments of `driver.run`."""

    model: str | LivePair
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
        self._together = slots(nodes, self._cpus, self._gpus)

    def refuses_pairs(self) -> str:
        """See `engines.Engine.refuses_pairs`."""
        return engines.refuses_pairs(self._options)

    def merge(self, *pair: Any, **options: Any) -> None:
        """`mi_kernels.sweep_checkpoint` on the cluster."""
        ray_merge.run(plan_sweep(*pair, **options), self.cluster)

    def run(self, points: Sequence[Point], choices: Choices, done: Callable[[Point, str], None]) -> None:
        """Evaluates all `points`.

        Args:
            done: called with each finished point and the name of its node.

        Raises:
            NotLiveError, EvalError, EngineError: see `driver.run`; finished responses are kept.
            ClusterError: the cluster failed.
        """
        data = {name: os.path.abspath(path) if os.path.exists(path) else path for name, path in choices.data.items()}
        shares = {_title(share): share for share in shared([_absolute(point) for point in points], self._together)}
        tasks = _Tasks(shares, replace(choices, data=data), self._options, done)
        self.cluster.run(evaluate, shares, tasks, cpus=self._cpus, gpus=self._gpus, again=False)


def slots(nodes: Sequence[Node], cpus: int, gpus: int) -> int:
    """How many tasks of `cpus` CPUs and `gpus` GPUs the nodes run at a time, at least 1."""
    fitting = [min(n.cpus // cpus, n.gpus // gpus if gpus else n.cpus) for n in nodes]
    return max(1, sum(fitting))


def shared(points: Sequence[Point], count: int) -> list[list[Point]]:
    """Divides points among at most `count` tasks, or one task each if engines cannot go from one to the next.

    Answers grow longer with lam, so each task gets points from the whole range. Those of one lam follow each other.
    """
    if not all(isinstance(point.model, LivePair) for point in points):
        return [[point] for point in points]
    return [list(points[i::count]) for i in range(min(count, len(points)))]


def _title(share: Sequence[Point]) -> str:
    more = f" and {len(share) - 1} more" if len(share) > 1 else ""
    return f"{share[0].key}{more}"


def _absolute(point: Point) -> Point:
    model = point.model
    if isinstance(model, LivePair):
        model = model.absolute()
    elif os.path.isdir(model):
        model = os.path.abspath(model)
    return point._replace(model=model, out=os.path.abspath(point.out))


class _Tasks:
    """See `mi_kernels.integrations.ray.Tasks`. A task is a list of points."""

    def __init__(
        self,
        shares: dict[str, list[Point]],
        choices: Choices,
        options: engines.Options,
        done: Callable[[Point, str], None],
    ) -> None:
        self._shares, self._choices, self._options, self._done = shares, choices, options, done

    def arguments(self, key: str) -> tuple[Any, ...]:
        for point in self._shares[key]:
            os.makedirs(point.out, exist_ok=True)
        return self._shares[key], self._choices, self._options

    def done(self, key: str, result: str) -> None:
        for point in self._shares[key]:
            scores = os.path.join(point.out, f"{driver.named(point.benchmark).name}.scores.json")
            if not os.path.exists(scores):
                raise EvalError(f"{scores}: was written by {result} and is missing here", _SHARE)
            self._done(point, result)

    def lost(self, key: str) -> None:
        """Nothing to do: finished responses are kept."""


_SHARE = "All nodes must share the storage of the runs and of the models, under the same paths."


def evaluate(points: Sequence[Point], choices: Choices, options: engines.Options) -> str:
    """Evaluates `points` on a worker, in one engine; returns the name of its node."""
    node = os.uname().nodename
    for point in points:
        if not os.path.isdir(point.out):
            raise EvalError(f"{node} does not see {point.out}", _SHARE)

    def tokens(point: Point) -> int:
        return longest(make_part(driver.named(point.benchmark), "merged", choices, None))

    with engines.create(options) as engine:
        # The longest first: an engine that is started for it also has room for the others.
        for point in sorted(points, key=tokens, reverse=True):
            driver.run(point.model, [point.benchmark], point.out, engine, choices, point.subject, progress=False)
    return node
