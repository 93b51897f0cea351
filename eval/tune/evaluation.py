"""Evaluates candidates: in one engine, whose weights change in place, rung by rung."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mi_kernels import Recipe, lerp_checkpoint

from ..engines import Engine
from ..engines.live_pair import LivePair, NotLiveError
from ..run import driver
from ..run.driver import Subject
from ..run.files import load_scores, save_scores
from ..run.session import Session
from ..run.settings import Choices
from ..schema import Benchmark
from .known import Known, restricted
from .resampled import Measured
from .rungs import Rungs
from .space import Space
from .split import Split
from .study import Done, Given, Study

LOG = logging.getLogger("eval")
_MODEL = "model"


@dataclass
class Evaluation:
    """How the candidates of a search are evaluated.

    Every candidate is a merge: it has the sampling and the chat template of merged models, lam 0 and 1 included.

    Attributes:
        instruct, thinking: model folders. samples: to each problem, by benchmark, at the last rung.
        choices: settings of all runs. Their problems and samples are those of `splits` and `rungs`.
        known: points of an earlier sweep, which are not evaluated again.
        session: has the budget of the search; None for none.
        live: whether the engine changes weights in place. Where it cannot, each candidate is merged into a folder,
            which is removed when the candidate is done.
    """

    instruct: str
    thinking: str
    space: Space
    splits: Sequence[Split]
    samples: Mapping[str, int]
    rungs: Rungs
    choices: Choices
    engine: Engine
    known: Known = field(default_factory=dict)
    live: bool = True
    session: Session | None = None

    def search(self, given: Given, study: Study) -> tuple[Measured, int, bool]:
        """Evaluates a candidate on the problems of the search, until it stops.

        Points of the plain sweep do not stop: they are what the search is compared with.

        Returns:
            Its scores at its last rung, the rung, and whether it stopped before all problems.
        """
        if given.lam is not None and given.lam in self.known:
            scores = {
                s.benchmark.name: restricted(self.known[given.lam][s.benchmark.name], [p.id for p in s.search])
                for s in self.splits
            }
            return scores, len(self.rungs.rungs) - 1, False
        folder, last = study.candidate_folder(given.number), len(self.rungs.rungs) - 1
        others = self.finished(study)
        for number in range(last if given.lam is None else 0):
            own = self._rung(given, folder, number)
            if self.rungs.stops(number, own, others):
                _remove_model(folder)
                return own, number, number < self.rungs.whole
        own = self._rung(given, folder, last)
        _remove_model(folder)
        return own, last, False

    def finished(self, study: Study) -> list[tuple[int, Measured]]:
        """(rung, scores) of every candidate with values, by number."""
        return [(done.rung, self.scores(study, done)) for done in study.done()]

    def scores(self, study: Study, done: Done) -> Measured:
        """The scores of a candidate at its last rung, on the problems of the search."""
        given = done.given
        if given.lam is not None and given.lam in self.known:
            return self.search(given, study)[0]
        found = self._saved(os.path.join(study.candidate_folder(given.number), "rungs", str(done.rung + 1)))
        return found if found is not None else self._rung(given, study.candidate_folder(given.number), done.rung)

    def validate(self, name: str, lam: float | None, recipe: Recipe, folder: str) -> Measured:
        """Evaluates a recipe on the problems that the search has not seen."""
        if lam is not None and lam in self.known:
            return {
                s.benchmark.name: restricted(self.known[lam][s.benchmark.name], [p.id for p in s.validation])
                for s in self.splits
            }
        self._run(name, lam, recipe, folder, [s.validated(self.samples[s.benchmark.name]) for s in self.splits])
        _remove_model(folder)
        return {s.benchmark.name: load_scores(folder, s.benchmark.name) for s in self.splits}

    def _rung(self, given: Given, folder: str, number: int) -> Measured:
        """The scores at a rung. They are kept beside the run, which later rungs extend."""
        kept = os.path.join(folder, "rungs", str(number + 1))
        if (found := self._saved(kept)) is not None:
            return found
        rung = self.rungs.rungs[number]
        names = [s.benchmark.name for s in self.splits]
        benchmarks = [s.searched(rung.problems[name], rung.samples[name]) for s, name in zip(self.splits, names)]
        self._run(given.name, given.lam, self.space.recipe(given.weights), folder, benchmarks)
        scores = {name: load_scores(folder, name) for name in names}
        os.makedirs(kept, exist_ok=True)
        for found_scores in scores.values():
            save_scores(kept, found_scores)
        return scores

    def _saved(self, kept: str) -> Measured | None:
        names = [s.benchmark.name for s in self.splits]
        if not all(os.path.exists(os.path.join(kept, f"{name}.scores.json")) for name in names):
            return None
        return {name: load_scores(kept, name) for name in names}

    def _run(self, name: str, lam: float | None, recipe: Recipe, folder: str, benchmarks: Sequence[Benchmark]) -> None:
        # The benchmarks hold the problems and the samples of this rung.
        choices = replace(self.choices, samples=None, limit=None, data={})
        subject = Subject(None, lam, name)
        if self.live:
            pair = LivePair(self.instruct, self.thinking, recipe)
            try:
                driver.run(
                    pair, benchmarks, folder, self.engine, choices, subject, progress=False, session=self.session
                )
                return
            except NotLiveError as error:
                LOG.warning("%s: each candidate is merged into a folder", error.problem)
                self.live = False
        model = self.thinking if recipe == Recipe(1.0) else self._merged(recipe, folder)
        if model == self.thinking:
            subject = Subject("thinking", lam, name)
        driver.run(model, benchmarks, folder, self.engine, choices, subject, progress=False, session=self.session)

    def _merged(self, recipe: Recipe, folder: str) -> str:
        """The folder of a merge. One that exists is complete, because a merge ends with a rename."""
        model = os.path.join(folder, _MODEL)
        if not os.path.exists(model):
            os.makedirs(folder, exist_ok=True)
            lerp_checkpoint(self.instruct, self.thinking, model, recipe, progress=False)
        return model


def _remove_model(folder: str) -> None:
    if os.path.exists(model := os.path.join(folder, _MODEL)):
        shutil.rmtree(model)
