"""A sweep over lam: evaluates the merges of two models at many lam, and the two models as its ends.

An engine that can holds the pair and changes lam in place, so that it is started once and no model is written. For
other engines, and for pairs that vLLM cannot hold, a folder is merged for each lam.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from mi_kernels import sweep_checkpoint
from mi_kernels.errors import ArgumentError
from mi_kernels.merge.api import plan_sweep
from mi_kernels.recipe.interpolation import Recipe
from mi_kernels.recipe.lam import checked_lam

from ..engines import Engine
from ..engines.live_pair import LivePair, NotLiveError
from ..engines.model_folder import context_length, local_folder
from ..errors import EvalError
from ..run import driver
from ..run.driver import Subject
from ..run.files import load_scores, write_json
from ..run.grading import keeping_pools
from ..run.settings import Choices, make_part
from ..schema import Benchmark

if TYPE_CHECKING:
    from .cluster import Point, Workers

BOUNDARY = 0.02
_SWEEP = "sweep.json"


@dataclass(frozen=True)
class Pair:
    """The models to merge, as folders or Hub ids, with the masks of `mi_kernels.lerp_checkpoint`."""

    instruct: str
    thinking: str
    layers: str | None = None
    modules: str | None = None

    @property
    def masked(self) -> bool:
        return self.layers is not None or self.modules is not None


@dataclass(frozen=True)
class Schedule:
    """The lam to evaluate, and which merged models to keep.

    Attributes:
        lams: from 0 to 1.
        keep: "all" merges in one pass, keeps the models and evaluates their folders. "none" writes no model if the
            engine can hold the pair; otherwise it merges one at a time and removes it after its run.
        adaptive: after `lams`, adds lam near the boundaries of the stages, until both are known to +-BOUNDARY or
            `points` lam are evaluated.
    """

    lams: tuple[float, ...]
    keep: str = "none"
    adaptive: bool = False
    points: int = 16


def run(
    pair: Pair,
    schedule: Schedule,
    benchmarks: Sequence[str | Benchmark],
    out: str,
    engine: Engine | None,
    choices: Choices | None = None,
    *,
    progress: bool = True,
    workers: Workers | None = None,
) -> list[str]:
    """Evaluates every point of `schedule` into a folder of `out`, and returns the folders.

    The same call again resumes the sweep. lam 0 is INSTRUCT itself with its own sampling and template; lam 1 is
    THINKING itself, unless masks make it another model. No merge is written for them.

    Args:
        engine: evaluates one model after the other; None with `workers`.
        workers: of a cluster. They evaluate in parallel. If folders are needed, they merge all in one pass before.

    Raises:
        EvalError: `out` holds a sweep of another pair; otherwise see `driver.run`.
        mi_kernels.MIKernelsError: the pair cannot be merged, or a benchmark's data cannot be used. Both are checked
            before `out` is created or the first model is evaluated.
    """
    lams = list(dict.fromkeys(map(_checked, schedule.lams)))
    choices = choices or Choices()
    for benchmark in benchmarks:
        make_part(driver.named(benchmark), "merged", choices, None)
    _check_claim(out, pair)
    sweep = _Sweep(pair, schedule, benchmarks, out, engine, choices, progress, workers)
    sweep.check(lams)
    _claim(out, pair)
    with keeping_pools():
        done = sweep.evaluate(lams)
        if schedule.adaptive:
            done += sweep.refine(lams)
    return done


def _checked(lam: float) -> float:
    """Raises:
    EvalError: `lam` is not a number from 0 to 1.
    """
    try:
        return checked_lam(lam)
    except ArgumentError as error:  # its remedy names an option that sweeps do not have
        raise EvalError(error.problem, "A sweep evaluates lam from 0 to 1: give such numbers.") from error


def _claim(out: str, pair: Pair) -> None:
    """Records the pair in `out`."""
    os.makedirs(out, exist_ok=True)
    if not os.path.exists(os.path.join(out, _SWEEP)):
        write_json(os.path.join(out, _SWEEP), _recorded(pair))


def _recorded(pair: Pair) -> dict[str, str | None]:
    return {k: os.path.abspath(v) if v and os.path.isdir(v) else v for k, v in asdict(pair).items()}


def _check_claim(out: str, pair: Pair) -> None:
    """Raises:
    EvalError: `out` belongs to another pair.
    """
    path, now = os.path.join(out, _SWEEP), _recorded(pair)
    if not os.path.exists(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        differs = [f"{k} {before.get(k)}, now {v}" for k, v in now.items() if before.get(k) != v]
    except (ValueError, AttributeError) as error:
        raise EvalError(
            f"{path}: is not the record of a sweep", "Remove it to claim the folder for this pair, or choose another."
        ) from error
    if differs:
        raise EvalError(
            f"{out}: holds a sweep of another pair: {'; '.join(differs)}", "Choose another folder with --out."
        )


@dataclass
class _Sweep:
    pair: Pair
    schedule: Schedule
    benchmarks: Sequence[str | Benchmark]
    out: str
    engine: Engine | None
    choices: Choices
    progress: bool
    workers: Workers | None
    _folders: str = field(default="", init=False)  # why merges need folders; "" if the engine holds the pair
    _noted: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        evaluates = self.workers or self.engine
        assert evaluates is not None
        self._folders = "--keep all" if self.schedule.keep == "all" else evaluates.refuses_pairs()

    def check(self, lams: Sequence[float]) -> None:
        """Plans the merges, so that a pair or a mask that cannot be merged is refused before anything is evaluated."""
        todo = [lam for lam in lams if not self._complete(lam, self.benchmarks)]
        absent = [lam for lam in todo if self._end(lam) is None and not os.path.exists(self._merged(lam))]
        if not todo or (not absent and not self.schedule.adaptive and not self.pair.masked):
            return
        if self.schedule.keep == "none" and self.workers is None:
            absent = absent[:1]  # the disk needs room for one at a time
        plan_sweep(
            self.pair.instruct,
            self.pair.thinking,
            os.path.join(self.out, "models", "mi-{lam}"),
            absent or [0.5],
            layers=self.pair.layers,
            modules=self.pair.modules,
        )

    def evaluate(self, lams: Sequence[float]) -> list[str]:
        folders = [self._folder(lam) for lam in lams]
        todo = [lam for lam in lams if not self._complete(lam, self.benchmarks)]
        if self._folders:
            self._note_folders(todo)
        if self.workers is not None:
            self._evaluate_together(todo, self.workers)
            return folders
        if self.schedule.keep == "all":
            self._merge([lam for lam in todo if self._end(lam) is None])
        for i, lam in enumerate(todo):
            if self.progress:
                print(f"lam {lam:g}: {i + 1} of {len(todo)}", file=sys.stderr)
            self._evaluate(lam, todo[i:])
        return folders

    def _evaluate(self, lam: float, left: Sequence[float]) -> None:
        """Evaluates one lam: without a folder unless the engine refuses it, now or before."""
        if not self._folders:
            try:
                self._run(*self._live(lam), lam)
                self._remove(lam)
                return
            except NotLiveError as error:
                self._folders = error.problem
                self._note_folders(left)
        with self._model(lam) as (model, subject):
            self._run(model, subject, lam)

    def _run(self, model: str | LivePair, subject: Subject, lam: float) -> None:
        assert self.engine is not None
        out = self._folder(lam)
        driver.run(model, self.benchmarks, out, self.engine, self.choices, subject, progress=self.progress)

    def _live(self, lam: float) -> tuple[LivePair, Subject]:
        """The model at `lam` without a folder of its own."""
        pair, end = self.pair, self._end(lam)
        if end is not None:
            side = "instruct" if lam == 0 else "thinking"
            return LivePair(pair.instruct, pair.thinking, Recipe(lam), side), end[1]
        recipe = Recipe(lam, pair.layers, pair.modules)
        return LivePair(pair.instruct, pair.thinking, recipe), Subject(None, lam, f"MI-{lam:g}")

    def _note_folders(self, lams: Sequence[float]) -> None:
        wanted = self.schedule.keep == "all" or all(self._end(lam) is not None for lam in lams)
        if self.progress and not wanted and not self._noted:
            self._noted = True
            print(f"note: a model is merged into a folder for each lam: {self._folders}", file=sys.stderr)

    def _evaluate_together(self, lams: Sequence[float], workers: Workers) -> None:
        if not self._folders:
            try:
                self._evaluate_points(lams, workers)
                for lam in lams:
                    self._remove(lam)
                return
            except NotLiveError as error:
                self._folders = error.problem
                self._note_folders(lams)
        self._merge([lam for lam in lams if self._end(lam) is None])
        self._evaluate_points([lam for lam in lams if not self._complete(lam, self.benchmarks)], workers)

    def _evaluate_points(self, lams: Sequence[float], workers: Workers) -> None:
        from .cluster import Point

        left: dict[str, set[str]] = {}  # by folder: the benchmarks that are not finished
        merged: dict[str, str] = {}
        points = []
        for lam in lams:
            end, folder = self._end(lam), os.path.abspath(self._folder(lam))
            model: str | LivePair
            if not self._folders:
                model, subject = self._live(lam)
            else:
                model, subject = end or (self._merged(lam), Subject(None, lam, f"MI-{lam:g}"))
                if end is None:
                    merged[folder] = self._merged(lam)
            wanted = [b for b in self.benchmarks if not self._complete(lam, [b])]
            left[folder] = {driver.named(b).name for b in wanted}
            points += [Point(model, b, folder, subject) for b in wanted]

        def done(point: Point, node: str) -> None:
            left[point.out].discard(driver.named(point.benchmark).name)
            if self.progress:
                count = len(points) - sum(map(len, left.values()))
                print(f"{point.key}: done on {node}, {count} of {len(points)}", file=sys.stderr)
            if not left[point.out] and self.schedule.keep == "none" and point.out in merged:
                shutil.rmtree(merged[point.out])

        workers.run(points, self.choices, done)

    def refine(self, lams: Sequence[float]) -> list[str]:
        """Evaluates the lam that `stages.next_lam` suggests, one at a time, up to `schedule.points` in total."""
        from ..analysis.stages import next_lam

        name = driver.named(self.benchmarks[0]).name
        there = list(lams)
        while len(there) < self.schedule.points:
            points = [(lam, load_scores(self._folder(lam), name)) for lam in there]
            lam = next_lam(points, tolerance=BOUNDARY)
            if lam is None:
                break
            self.evaluate([lam])
            there.append(lam)
        return [self._folder(lam) for lam in there[len(lams) :]]

    def _complete(self, lam: float, benchmarks: Sequence[str | Benchmark]) -> bool:
        end = self._end(lam)
        config = local_folder(self.pair.thinking if end is None else end[0])  # a merge has THINKING's config
        return driver.complete(self._folder(lam), benchmarks, self.choices, context_length(config))

    def _folder(self, lam: float) -> str:
        return os.path.join(self.out, f"lam-{lam:g}")

    def _merged(self, lam: float) -> str:
        return os.path.join(self.out, "models", f"mi-{lam:g}")

    def _end(self, lam: float) -> tuple[str, Subject] | None:
        if lam == 0:
            return self.pair.instruct, Subject("instruct", 0.0, "Instruct")
        if lam == 1 and not self.pair.masked:
            return self.pair.thinking, Subject("thinking", 1.0, "Thinking")
        return None

    @contextmanager
    def _model(self, lam: float) -> Iterator[tuple[str, Subject]]:
        end = self._end(lam)
        if end is not None:
            yield end
            return
        self._merge([lam])
        yield self._merged(lam), Subject(None, lam, f"MI-{lam:g}")
        self._remove(lam)  # only after a complete run: an interrupted run still needs the model

    def _remove(self, lam: float) -> None:
        if self.schedule.keep == "none" and os.path.exists(self._merged(lam)):
            shutil.rmtree(self._merged(lam))

    def _merge(self, lams: Sequence[float]) -> None:
        """Merges the models that are missing. A folder that exists is complete, because a merge ends with a rename."""
        absent = [lam for lam in lams if not os.path.exists(self._merged(lam))]
        if absent:
            os.makedirs(os.path.join(self.out, "models"), exist_ok=True)
            merge = sweep_checkpoint if self.workers is None else self.workers.merge
            merge(
                self.pair.instruct,
                self.pair.thinking,
                os.path.join(self.out, "models", "mi-{lam}"),
                absent,
                layers=self.pair.layers,
                modules=self.pair.modules,
                progress=self.progress,
            )
