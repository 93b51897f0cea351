"""The journal of a search: an optuna study in a file, which several processes can append to.

    study.journal      optuna's: every candidate with its weights, its state and its values
    .study.lock        held while candidates are given out and while the journal is written

A candidate has the state RUNNING from when it is given out until its values are known. The process that evaluates it
holds a lock on its folder, which the system releases when the process ends. So a candidate that is RUNNING without a
lock was interrupted, and is given out again first: what it had generated is in its folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from ..errors import EvalError
from . import samplers
from .space import Space

_JOURNAL = "study.journal"
_NAME = "tune"


@dataclass(frozen=True)
class Start:
    """A candidate that the search begins with. `lam`: of a plain interpolation."""

    name: str
    weights: Mapping[str, float]
    lam: float | None = None


@dataclass(frozen=True)
class Given:
    """A candidate to evaluate.

    Attributes:
        number: from 0. name: in reports. weights: by block. lam: of a point of the plain sweep.
    """

    number: int
    name: str
    weights: Mapping[str, float]
    lam: float | None


@dataclass(frozen=True)
class Done:
    """A candidate with its values: Mean@k and tokens on the problems of its rung.

    Attributes:
        rung: the last that was evaluated. stopped: whether it stopped before all problems.
    """

    given: Given
    mean: float
    tokens: float
    rung: int
    stopped: bool


class Study:
    """The study in `folder`, created with `starts` if it is new.

    Args:
        evaluations: candidates in all, `starts` included.

    Raises:
        EvalError: the journal cannot be read.
    """

    def __init__(
        self,
        folder: str,
        space: Space,
        sampler: str,
        seed: int,
        starts: Sequence[Start],
        evaluations: int,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna: Any = optuna
        self._folder, self._sampler, self._seed = folder, sampler, seed
        self._starts, self._evaluations = len(starts), evaluations
        self._distributions = {b.name: optuna.distributions.FloatDistribution(0.0, 1.0) for b in space.blocks}
        self._path = os.path.join(folder, _JOURNAL)
        os.makedirs(os.path.join(folder, "candidates"), exist_ok=True)
        with self._locked():
            _cut_partial_line(self._path)
            try:
                self._study = self._load()
            except (ValueError, KeyError) as error:
                raise EvalError(
                    f"{self._path}: is not the journal of a search: {error}",
                    "Restore it, or choose another folder with --out.",
                ) from error
            for start in starts[len(self._trials()) :]:
                self._study.enqueue_trial(dict(start.weights), user_attrs={"name": start.name, "lam": start.lam})

    def take(self) -> tuple[Given, IO[str]] | None:
        """The next candidate and its lock, to close when its values are reported. None if nothing is left to give out.

        An interrupted candidate comes first. Others may still be running in other processes, see `running`.
        """
        with self._locked():
            trials = self._trials()
            for trial in trials:
                if trial.state.name == "RUNNING" and (lock := self._own(trial.number)) is not None:
                    return self._suggested(trial.number, trial._trial_id), lock
            given = [t for t in trials if t.state.name in ("RUNNING", "COMPLETE")]
            if len(given) >= self._evaluations:
                return None
            waiting = [t.number for t in trials if t.state.name == "WAITING"]
            number = min(waiting, default=len(trials))
            self._study.sampler = self._make_sampler(number)
            trial = self._study.ask(self._distributions)
            lock = self._own(trial.number)
            assert trial.number == number
            assert lock is not None  # nobody else knows of it yet
            return self._suggested(trial.number, trial._trial_id), lock

    def tell(self, given: Given, mean: float, tokens: float, rung: int, stopped: bool) -> None:
        with self._locked():
            trial = self._optuna.trial.Trial(self._study, self._trials()[given.number]._trial_id)
            trial.set_user_attr("rung", rung)
            trial.set_user_attr("stopped", stopped)
            self._study.tell(given.number, [mean, tokens])

    def done(self) -> list[Done]:
        """All candidates with values, by number."""
        trials = [t for t in self._trials() if t.state.name == "COMPLETE"]
        return [
            Done(self._given(t), t.values[0], t.values[1], t.user_attrs["rung"], t.user_attrs["stopped"])
            for t in trials
        ]

    def running(self) -> bool:
        """Whether a candidate has been given out, and its values are not reported."""
        return any(t.state.name == "RUNNING" for t in self._trials())

    def candidate_folder(self, number: int) -> str:
        return os.path.join(self._folder, "candidates", f"{number:04d}")

    def _trials(self) -> list[Any]:
        trials: list[Any] = self._study.get_trials(deepcopy=False)
        return trials

    def _load(self) -> Any:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(self._path, _JournalLock(self._path + ".lock")))
        return self._optuna.create_study(
            storage=storage, study_name=_NAME, directions=["maximize", "minimize"], load_if_exists=True
        )

    def _make_sampler(self, number: int) -> Any:
        return samplers.make(self._sampler, self._seed, number, self._starts)

    def _suggested(self, number: int, trial_id: int) -> Given:
        """The candidate with all weights. A kill may have come between the first and the last of them: the others are
        drawn as they would have been."""
        frozen = self._trials()[number]
        if len(frozen.params) < len(self._distributions):
            self._study.sampler = self._make_sampler(number)
            trial = self._optuna.trial.Trial(self._study, trial_id)
            for name in self._distributions:
                trial.suggest_float(name, 0.0, 1.0)
        return self._given(self._trials()[number])

    def _given(self, trial: Any) -> Given:
        name, lam = trial.user_attrs.get("name"), trial.user_attrs.get("lam")
        weights = {block: trial.params[block] for block in self._distributions}
        return Given(trial.number, name or f"candidate {trial.number}", weights, lam)

    def _own(self, number: int) -> IO[str] | None:
        """The lock of a candidate, if no other process has it."""
        folder = self.candidate_folder(number)
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, ".candidate.lock"), "w")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(os.path.join(self._folder, ".study.lock")):
            yield


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Waits for the lock of `path`, and holds it. The system releases it when this process ends."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _JournalLock:
    """A lock for optuna's journal. Those of optuna outlive a killed process for half a minute."""

    def __init__(self, path: str) -> None:
        self._path = path

    def acquire(self) -> bool:
        self._file = open(self._path, "w")  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._file.close()


def _cut_partial_line(path: str) -> None:
    """Removes a last line that a kill cut short: optuna would not read what is appended to it."""
    if not os.path.exists(path):
        return
    with open(path, "r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            file.truncate(whole)
