"""Merges to kill: the files before, and the files that must exist afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file

from .checks import World, snapshot
from .kills import Outcome, Run, Runner
from .models import SINGLE, assert_same_tensors, load, merge_reference, save, tiny

Content = dict[str, bytes]


class Scenario(NamedTuple):
    """A command, its outputs, and the models at these paths before it. `suffix`: how the names of the outputs end."""

    options: Sequence[str] = ()
    lams: Sequence[str] = ("0.5",)
    old: bool = False
    exchange: bool = True
    suffix: str = ""


SCENARIOS = {
    "alone": Scenario(),
    "direct or not": Scenario(("--io", "auto")),
    "in place of an old model": Scenario(("--overwrite",), old=True),
    "without exchange": Scenario(("--overwrite",), old=True, exchange=False),
    "sweep": Scenario(lams=("0.25", "0.5", "1")),
    "sweep in place of old models": Scenario(("--overwrite",), ("0.25", "0.5"), old=True),
    "a file": Scenario(suffix=".safetensors"),
    "a file without exchange": Scenario(("--overwrite",), old=True, exchange=False, suffix=".safetensors"),
    "sweep of files": Scenario(("--overwrite",), ("0.25", "0.5"), old=True, suffix=".safetensors"),
}


class Stage:
    """The folders of a scenario. Inputs stay, outputs are restored before each run."""

    def __init__(self, root: Path, scenario: Scenario, run: Runner) -> None:
        self.scenario, self._run = scenario, run
        self.world = World(root, shards=3)
        self.runs = root / "runs"
        self.outs = [self.runs / f"mi-{lam}{scenario.suffix}" for lam in scenario.lams]
        self._old = save(root / "old", tiny(3)) if scenario.old else None
        self.reset()
        self.before = self.contents()
        self._inputs = self._snapshot()
        undisturbed = self.stop()
        assert undisturbed.status == 0, undisturbed.err
        self.events = undisturbed.events
        self.after = self.contents()
        for out, lam in zip(self.outs, scenario.lams):
            found = load(out) if out.is_dir() else load_file(out)
            assert_same_tensors(found, merge_reference(self.world.a, self.world.b, float(lam)))
        assert {path.name for path in self.runs.iterdir()} == {out.name for out in self.outs}

    def reset(self) -> None:
        shutil.rmtree(self.runs, ignore_errors=True)
        self.runs.mkdir()
        for out in self.outs if self._old else ():
            assert self._old is not None
            if self.scenario.suffix:
                shutil.copy(self._old / SINGLE, out)
            else:
                shutil.copytree(self._old, out)

    def stop(self, **where: object) -> Outcome:
        """Runs the command and stops it as `Run` describes."""
        command = "sweep" if len(self.outs) > 1 else "lerp"
        out = self.runs / (f"mi-{{lam}}{self.scenario.suffix}" if len(self.outs) > 1 else self.outs[0].name)
        words = [command, self.world.instruct, self.world.thinking, "-o", out, "--lam", ",".join(self.scenario.lams)]
        size = f"{8192 * len(self.outs)}B"
        fixed = ["--threads", "1", "--max-memory", size, "--io", "buffered", "--quiet", *self.scenario.options]
        argv = [str(word) for word in words + fixed]
        return self._run(Run(argv, exchange=self.scenario.exchange, **where))  # type: ignore[arg-type]

    def contents(self) -> list[Content | None]:
        """Returns the files at each output. An output that is a file holds itself."""
        return [
            {p.name: p.read_bytes() for p in (out.iterdir() if out.is_dir() else [out])} if out.exists() else None
            for out in self.outs
        ]

    def _snapshot(self) -> list[object]:
        return [snapshot(folder) for folder in (self.world.instruct, self.world.thinking)]

    def check_whole(self) -> None:
        """Asserts that outputs are as before or as after, inputs are unchanged, and only work folders are left."""
        assert self._snapshot() == self._inputs
        for found, before, after, out in zip(self.contents(), self.before, self.after, self.outs):
            between = not self.scenario.exchange and found is None  # the old model is in the work folder
            assert found in (before, after) or between, f"{out.name} is neither the old model nor the new one"
        works = {f".{out.name}.mi-kernels-work" for out in self.outs}
        assert {path.name for path in self.runs.iterdir()} <= works | {out.name for out in self.outs}

    def check_finishes(self, where: object) -> None:
        """Asserts that the same command again finishes with the same bytes, or reports that all outputs exist."""
        journals = [(self.runs / f".{out.name}.mi-kernels-work" / "journal").exists() for out in self.outs]
        tidied = self.contents() == self.after and not all(journals)
        again = self.stop()
        assert again.status == 0 or (tidied and "exists" in again.err), f"{where}: {again.err}"
        assert self.contents() == self.after, where
        assert self._snapshot() == self._inputs
        if again.status == 0:
            assert {path.name for path in self.runs.iterdir()} == {out.name for out in self.outs}, where


def spread(count: int, most: int) -> list[int]:
    """Returns evenly selected numbers of range(count), and the last ones, where models are published."""
    return sorted({*range(0, count, -(-count // most)), *range(max(0, count - 10), count)})
