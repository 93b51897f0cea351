"""The same done to other programs, as far as it can be: kills at random times, a failing disk, hostile inputs."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..attacks.run import ATTACKS, Limits, foreign, run
from ..checks import World, snapshot
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
        return Tool("the paper's script", f"{sys.executable} -m bench.paper_script {{a}} {{b}} {{out}} 0.5")
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
        self._inputs = self._snapshot()
        started = time.perf_counter()
        status, err = self.run()
        self.seconds = time.perf_counter() - started
        if status != 0:
            raise SystemExit(f"{tool.name} does not run: {err[-500:]}")
        self.whole = self.weights()

    def run(self, variables: Mapping[str, str] | None = None, seconds: float | None = None) -> tuple[int, str]:
        """One run on an empty OUT; killed after `seconds`. Its status and stderr."""
        shutil.rmtree(self.world.out, ignore_errors=True)
        places = {"a": self.world.instruct, "b": self.world.thinking, "config": self.config, "out": self.world.out}
        process = subprocess.Popen(
            [part.format(**places) for part in self._tool.command.split()],
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(variables or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, err = process.communicate(timeout=seconds or _SECONDS)
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


def kills(tool: Tool, count: int = 20) -> Row:
    """SIGKILL in the second half of a run: the first one is imports."""
    row, chance = Row(tool.name, "killed at random times"), random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), tool)
        for _ in range(count):
            seconds = chance.uniform(0.5, 1.0) * stage.seconds
            stage.judge(row, f"killed after {seconds:.2f} s", *stage.run(seconds=seconds))
    return row


def faults(tool: Tool, most: int = 4) -> Row:
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
    for attack in fit[:: max(1, len(fit) // count)]:
        outcome = run(attack, program, Limits(seconds=_SECONDS, resident=8 << 30))
        if outcome is None:
            continue
        verdict = {"refused": "refused", "traceback": "traceback", "accepted": "wrong"}.get(outcome.verdict, "wrong")
        if outcome.verdict == "accepted" and attack.harmless:
            verdict = "survived"
        row.add(verdict, f"{attack.family}/{attack.name}: {outcome.verdict} {outcome.detail[:200]}")
        row.inputs_changed += "changed outside of the output" in outcome.detail
    return row
