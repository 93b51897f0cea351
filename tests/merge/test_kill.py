"""A merge that is stopped between any two changes of the file system leaves no incomplete output and can be resumed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.kills import Runner, runner
from ..support.stages import SCENARIOS, Stage, spread

RUNS = int(os.environ.get("MI_KERNELS_KILLS", 20))  # the maximum for each test; the points to stop at are spread evenly


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    with runner() as made:
        yield made


@pytest.fixture(params=SCENARIOS.values(), ids=SCENARIOS.keys())
def stage(request: pytest.FixtureRequest, tmp_path: Path, run: Runner) -> Stage:
    return Stage(tmp_path, request.param, run)


def test_killed_before_any_change(stage: Stage) -> None:
    for event in spread(len(stage.events), RUNS):
        stage.reset()
        outcome = stage.stop(event=event, torn=event % 2 == 0)
        assert outcome.status == -signal.SIGKILL
        stage.check_whole()
        stage.check_finishes((event, outcome.events[-3:]))


def test_killed_again_and_again(stage: Stage) -> None:
    """Each run gets further than the previous one, because finished shards stay finished."""
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
    """Either no file is left or the output is complete, also if the run resumes a killed one."""
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
        # The work of a killed run stays until it is verified and taken over.
        assert not left or (event % 3 == 0 and "unlink" not in outcome.events), event
        assert stage.contents() in (stage.before, stage.after), "a sweep appears whole or not at all"
        stage.check_finishes(event)
