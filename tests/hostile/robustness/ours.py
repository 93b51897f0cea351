"""Counts the outcomes of the tests of mi_kernels: kills, errors, attacks, and flipped bits in its output."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mi_kernels import lerp_checkpoint, verify_checkpoint
from mi_kernels.checksums.damage import Damage

from ...support.checks import World
from ...support.kills import runner
from ...support.stages import SCENARIOS, Stage, spread
from .row import Row

NAME = "mi_kernels"
_SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def kills(most: int) -> Row:
    """Sends a signal before each change of the file system (`most` of each kind), then runs the same command again."""
    row = Row(NAME, "killed or interrupted, then run again")
    with runner() as run, tempfile.TemporaryDirectory() as folder:
        for number, scenario in enumerate(SCENARIOS.values()):
            stage = Stage(Path(folder) / str(number), scenario, run)
            for which in _SIGNALS:
                for event in spread(len(stage.events), most):
                    stage.reset()
                    stage.stop(event=event, signal=which, torn=event % 2 == 0 and which == signal.SIGKILL)
                    try:
                        stage.check_whole()
                        stage.check_finishes(event)
                    except AssertionError as error:
                        row.add("wrong", f"{scenario} {which} {event}: {error}"[:300])
                    else:
                        row.add("survived")
    return row


def faults(quick: bool) -> Row:
    """Makes every system call of three merges fail once with every errno: `python -m tests.hostile.faults`."""
    from ..faults.__main__ import count

    found = count(not quick)
    row = Row(NAME, "a system call fails")
    row.refused, row.survived = sum(found.refused.values()), sum(found.survived.values())
    row.cases, row.wrong, row.examples = row.refused + row.survived, len(found.violations), found.violations[:20]
    row.inputs_changed = sum("the inputs have changed" in violation for violation in found.violations)
    return row


def attacks() -> Row:
    """Runs `python -m tests.hostile.attacks` in a process without torch, because each attack is a fork of it."""
    command = [sys.executable, "-m", "tests.hostile.attacks", "--json"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    row = Row(NAME, "hostile or broken inputs")
    for name, outcome in json.loads(done.stdout).items():
        right = {"accepted": "survived", "refused": "refused"}.get(outcome["verdict"], "wrong")
        row.add(right if outcome["right"] else "wrong", f"{name}: {outcome['verdict']}: {outcome['detail'][:200]}")
        row.inputs_changed += "changed outside of the output" in outcome["detail"]
    return row


def flips(count: int = 2000) -> Row:
    """Flips single bits in the files of a merged model. verify must name the file, the byte and the bit."""
    row = Row(NAME, "a bit of OUT flips, then verify")
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=False)
        files = sorted(world.out.iterdir())
        for number in range(count):
            path = files[number % len(files)]
            content = path.read_bytes()
            byte, bit = chance.randrange(len(content)), chance.randrange(8)
            path.write_bytes(content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :])
            found = verify_checkpoint(world.out, progress=False).damage
            path.write_bytes(content)
            named = [(d.file, d.file_offset, d.bit) for d in found if isinstance(d, Damage)]
            row.add("refused" if named == [(path.name, byte, bit)] else "wrong", f"{path.name} {byte} {bit}: {named}")
    return row
