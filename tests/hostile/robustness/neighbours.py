"""The same done to other programs, as far as it can be: kills at random times, a failing disk, hostile inputs."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ...support.checks import World, snapshot
from ...support.models import CONFIG
from ..attacks import case
from ..attacks.run import ATTACKS, Limits, Outcome, foreign, run
from ..faults.session import build
from .row import Row

_SECONDS = 120  # at most for one run
_FAULTS = {
    "create": (errno.ENOSPC, errno.EROFS),
    "write": (errno.ENOSPC, errno.EIO),
    "pwrite": (errno.ENOSPC, errno.EIO),
    "close": (errno.EIO,),
    "fsync": (errno.EIO,),
}


class Tool(NamedTuple):
    """A program: its name, and its command line with {a} and {b} or {config}, and {out}."""

    name: str
    command: str


def tool(name: str) -> Tool:
    if name == "paper":
        return Tool("the paper's script", f"{sys.executable} -m bench.programs.paper {{a}} {{b}} {{out}} 0.5")
    if name == "mergekit" and "MERGEKIT_ENV" in os.environ:
        return Tool("mergekit 0.1.5", f"{os.environ['MERGEKIT_ENV']}/bin/mergekit-yaml {{config}} {{out}}")
    raise SystemExit(f"{name}: not known, or MERGEKIT_ENV does not name its environment")


class Stage:
    """Two models, and what the tool makes of them undisturbed."""

    def __init__(self, root: Path, tool: Tool) -> None:
        self.world, self._tool = World(root), tool
        self.config = root / "config.yml"
        models = "".join(
            f"  - model: {m}\n    parameters: {{weight: 0.5}}\n" for m in (self.world.instruct, self.world.thinking)
        )
        self.config.write_text(f"merge_method: linear\ndtype: bfloat16\nmodels:\n{models}")
        for model in (self.world.instruct, self.world.thinking):
            (model / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 2}))
        self._inputs = self._snapshot()
        status, err = self.run()
        if status != 0:
            raise SystemExit(f"{tool.name} does not run: {err[-500:]}")
        self.whole = self.weights()

    def run(self, variables: Mapping[str, str] | None = None, seconds: float | None = None) -> tuple[int, str]:
        """One run without an OUT; killed `seconds` after OUT has appeared. Its status and stderr."""
        shutil.rmtree(self.world.out, ignore_errors=True)
        places = {"a": self.world.instruct, "b": self.world.thinking, "config": self.config, "out": self.world.out}
        process = subprocess.Popen(
            [part.format(**places) for part in self._tool.command.split()],
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(variables or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if seconds is not None:
            while not self.world.out.exists() and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(seconds)
            process.kill()
        try:
            _, err = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
        return process.returncode, err

    def weights(self) -> dict[str, bytes]:
        """The files that make OUT a model: other ones may name dates."""
        out = self.world.out
        kept = (".safetensors", "index.json", "config.json")
        return {p.name: p.read_bytes() for p in out.iterdir() if p.name.endswith(kept)} if out.is_dir() else {}

    def judge(self, row: Row, what: str, status: int, err: str) -> None:
        """OUT whole, or not there at all; or half-made, for whoever looks next."""
        found = self.weights()
        row.inputs_changed += self._snapshot() != self._inputs
        if found == self.whole:
            row.add("survived")
        elif self.world.out.exists():
            row.add(
                "wrong", f"{what}: OUT holds {len(found)} of {len(self.whole)} files or other bytes, status {status}"
            )
        elif status < 0:
            row.add("survived")  # killed before it made anything
        else:
            row.add("traceback" if "Traceback" in err else "refused")

    def _snapshot(self) -> list[dict[str, object]]:
        return [snapshot(folder) for folder in (self.world.instruct, self.world.thinking)]


def kills(tool: Tool, count: int = 10) -> Row:
    """SIGKILL within 10 ms from when OUT appears: at a random time of the whole run most would hit imports."""
    row, chance = Row(tool.name, "killed once OUT is there"), random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), tool)
        for _ in range(count):
            seconds = chance.uniform(0, 0.01)
            stage.judge(row, f"killed {1000 * seconds:.1f} ms after OUT was there", *stage.run(seconds=seconds))
    return row


def faults(tool: Tool, most: int = 2) -> Row:
    """The first calls of each kind on OUT fail, `most` at most: once, as a full or a dying disk does."""
    row = Row(tool.name, "a system call fails")
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), tool)
        library = build(Path(folder))
        for call, codes in _FAULTS.items():
            for nth in range(1, most + 1):
                for code in codes:
                    faults = {"PATH": stage.world.out, "CALL": call, "NTH": nth, "ERRNO": code}
                    variables = {f"FAULT_{key}": str(value) for key, value in faults.items()}
                    status, err = stage.run({**variables, "LD_PRELOAD": str(library)})
                    stage.judge(row, f"{call} {nth}: {errno.errorcode[code]}", status, err)
    return row


def attacks(tool: Tool, count: int) -> Row:
    """`count` of the attacks on the inputs of a merge, evenly spread over the families."""
    row, program = Row(tool.name, "hostile or broken inputs"), foreign(tool.command)
    commands = ("lerp",) if "{a}" in tool.command else ("lerp", "merge")
    fit = [a for a in ATTACKS if not a.ours and a.command in commands]
    limits = Limits(seconds=_SECONDS, resident=8 << 30)
    good = run(_understood(case.Attack("none", "none", lambda scene: None)), program, limits)
    if good is None or not _accepted(good):
        raise SystemExit(f"{tool.name} does not merge good models: {good}")
    for attack in fit[:: max(1, -(-len(fit) // count))]:
        outcome = run(_understood(attack), program, limits)
        if outcome is None:
            continue
        if _accepted(outcome):
            verdict = "survived" if attack.harmless else "accepted"
        else:
            verdict = outcome.verdict if outcome.verdict in ("refused", "traceback") else "wrong"
        shown = "accepted" if _accepted(outcome) else f"{outcome.verdict}: {outcome.detail[:200]}"
        row.add(verdict, f"{attack.family}/{attack.name}: {shown}")
        row.inputs_changed += "changed outside of the output" in outcome.detail
    return row


def _accepted(outcome: Outcome) -> bool:
    """The card is judged by rules that are ours: others link to their papers in it."""
    return outcome.verdict == "accepted" or "got into the card" in outcome.detail


def _understood(attack: case.Attack) -> case.Attack:
    """The scene's models have too few tensors for a Qwen3; of an unknown architecture mergekit takes what is there."""

    def make(scene: case.Scene) -> None:
        for model in (scene.a, scene.b):
            config = {**case.CONFIG, "architectures": ["TinyForCausalLM"], "num_hidden_layers": 2}
            (model / "config.json").write_text(json.dumps(config))
        attack.make(scene)

    return replace(attack, make=make)
