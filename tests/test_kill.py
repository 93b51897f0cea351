"""A merge that is stopped between any two changes of the file system: what is there then, and what runs again later."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from .checks import World, snapshot
from .kills import Outcome, Run, Runner, runner
from .models import assert_same_tensors, load, merge_reference, save, tiny

Content = dict[str, bytes]
RUNS = int(os.environ.get("MI_KERNELS_KILLS", 20))  # of each kind at most; the places to stop at are spread evenly


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    with runner() as made:
        yield made


class Scenario(NamedTuple):
    """A command, what it makes, and what stood there before."""

    options: Sequence[str] = ()
    lams: Sequence[str] = ("0.5",)
    old: bool = False
    exchange: bool = True


SCENARIOS = {
    "alone": Scenario(),
    "direct or not": Scenario(("--io", "auto")),
    "in place of an old model": Scenario(("--overwrite",), old=True),
    "without exchange": Scenario(("--overwrite",), old=True, exchange=False),
    "sweep": Scenario(lams=("0.25", "0.5", "1")),
    "sweep in place of old models": Scenario(("--overwrite",), ("0.25", "0.5"), old=True),
}


class Stage:
    """A scenario's folders: the inputs stay, the outputs are put back before each run."""

    def __init__(self, root: Path, scenario: Scenario, run: Runner) -> None:
        self.scenario, self._run = scenario, run
        self.world = World(root, shards=3)
        self.runs = root / "runs"
        self.outs = [self.runs / f"mi-{lam}" for lam in scenario.lams]
        self._old = save(root / "old", tiny(3)) if scenario.old else None
        self.reset()
        self.before = self.contents()
        self._inputs = self._snapshot()
        undisturbed = self.stop()
        assert undisturbed.status == 0, undisturbed.err
        self.events = undisturbed.events
        self.after = self.contents()
        for out, lam in zip(self.outs, scenario.lams):
            assert_same_tensors(load(out), merge_reference(self.world.a, self.world.b, float(lam)))
        assert {path.name for path in self.runs.iterdir()} == {out.name for out in self.outs}

    def reset(self) -> None:
        shutil.rmtree(self.runs, ignore_errors=True)
        self.runs.mkdir()
        for out in self.outs if self._old else ():
            assert self._old is not None
            shutil.copytree(self._old, out)

    def stop(self, **where: object) -> Outcome:
        """Runs the command, and stops it as `Run` says."""
        command = "sweep" if len(self.outs) > 1 else "lerp"
        out = self.runs / ("mi-{lam}" if len(self.outs) > 1 else self.outs[0].name)
        words = [command, self.world.instruct, self.world.thinking, "-o", out, "--lam", ",".join(self.scenario.lams)]
        size = 8192 * len(self.outs)
        fixed = ["--threads", "1", "--max-memory", size, "--io", "buffered", "--quiet", *self.scenario.options]
        argv = [str(word) for word in words + fixed]
        return self._run(Run(argv, exchange=self.scenario.exchange, **where))  # type: ignore[arg-type]

    def contents(self) -> list[Content | None]:
        """What stands at each output."""
        return [{p.name: p.read_bytes() for p in out.iterdir()} if out.exists() else None for out in self.outs]

    def _snapshot(self) -> list[object]:
        return [snapshot(folder) for folder in (self.world.instruct, self.world.thinking)]

    def check_whole(self) -> None:
        """Each output is as before or as after, the inputs are as they were, and nothing else is there but our work."""
        assert self._snapshot() == self._inputs
        for found, before, after, out in zip(self.contents(), self.before, self.after, self.outs):
            between = not self.scenario.exchange and found is None  # the old one waits in the work folder
            assert found in (before, after) or between, f"{out.name} is neither the old model nor the new one"
        works = {f".{out.name}.mi-kernels-work" for out in self.outs}
        assert {path.name for path in self.runs.iterdir()} <= works | {out.name for out in self.outs}

    def check_finishes(self, where: object) -> None:
        """The same command again finishes, with the same bytes; or says that all is there, where all is."""
        journals = [(self.runs / f".{out.name}.mi-kernels-work" / "journal").exists() for out in self.outs]
        tidied = self.contents() == self.after and not all(journals)
        again = self.stop()
        assert again.status == 0 or (tidied and "exists and is not empty" in again.err), f"{where}: {again.err}"
        assert self.contents() == self.after, where
        assert self._snapshot() == self._inputs
        if again.status == 0:
            assert {path.name for path in self.runs.iterdir()} == {out.name for out in self.outs}, where


@pytest.fixture(params=SCENARIOS.values(), ids=SCENARIOS.keys())
def stage(request: pytest.FixtureRequest, tmp_path: Path, run: Runner) -> Stage:
    return Stage(tmp_path, request.param, run)


def spread(count: int, most: int) -> list[int]:
    """So many of range(count), evenly, and the last ones, where models are published."""
    return sorted({*range(0, count, -(-count // most)), *range(max(0, count - 10), count)})


def test_killed_before_any_change(stage: Stage) -> None:
    for event in spread(len(stage.events), RUNS):
        stage.reset()
        outcome = stage.stop(event=event, torn=event % 2 == 0)
        assert outcome.status == -signal.SIGKILL
        stage.check_whole()
        stage.check_finishes((event, outcome.events[-3:]))


def test_killed_again_and_again(stage: Stage) -> None:
    """Each run gets a little further than the last one, whatever it finds: what was finished stays finished."""
    steps = len(stage.events) // 3
    for attempt in range(12):
        outcome = stage.stop(event=steps, torn=attempt % 2 == 0)
        stage.check_whole()
        if stage.contents() == stage.after:
            break
        assert outcome.status == -signal.SIGKILL, outcome.err
        steps += 5
    else:
        pytest.fail("it never finishes")
    assert stage.contents() == stage.after


def test_killed_at_any_time(stage: Stage) -> None:
    clock = random.Random(1)
    for _ in range(10):
        stage.reset()
        seconds = clock.uniform(0, 0.05)
        outcome = stage.stop(seconds=seconds)
        assert outcome.status in (0, -signal.SIGKILL)
        stage.check_whole()
        stage.check_finishes(seconds)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_before_any_change(stage: Stage, number: int, status: int) -> None:
    """Nothing is left behind, or everything is in its place; also where it goes on from a killed run."""
    for event in spread(len(stage.events), RUNS // 2):
        stage.reset()
        if event % 3 == 0:
            stage.stop(event=len(stage.events) // 2)
        outcome = stage.stop(event=event, signal=number)
        assert outcome.status in (status, 0), outcome.err
        if outcome.status:
            assert "no output is half-done" in outcome.err
        stage.check_whole()
        left = {path.name for path in stage.runs.iterdir()} - {out.name for out in stage.outs}
        # What a killed run left is its own until it is found to be right.
        assert not left or (event % 3 == 0 and "unlink" not in outcome.events), event
        assert stage.contents() in (stage.before, stage.after), "a sweep appears whole or not at all"
        stage.check_finishes(event)
