"""Every attack has the required outcome: no crash, no hang, no code run, no file outside the folders touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from ..support import ROOT
from .attacks.run import ATTACKS

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="devices and limits are Linux's")


def attacked(*arguments: str) -> dict[str, Any]:
    """Runs the attacks in a process without torch and its threads, because each attack is a fork of it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.attacks", "--json", *arguments],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return attacked()


def test_every_attack_was_run(results: dict[str, Any]) -> None:
    names = [f"{a.family}/{a.name}" for a in ATTACKS]
    assert len(names) == len(set(names)) == len(results)
    assert len(names) > 500
    print(f"{len(names)} attacks")


@pytest.mark.parametrize("family", sorted({a.family for a in ATTACKS}))
def test_attacks(results: dict[str, Any], family: str) -> None:
    wrong = {n: r for n, r in results.items() if n.startswith(f"{family}/") and not r["right"]}
    assert not wrong, json.dumps(wrong, indent=2)


# Programs that do harm. The judge must detect it.
CULPRITS = {
    "harm": ("file/tokenizer.json_is_secret", "shutil.copytree(b, out)"),
    "hang": ("file/config.json_is_fifo", "open(b + '/config.json').read()"),
    "crash": ("shard/empty_file", "os.abort()"),
    "traceback": ("shard/empty_file", "open(b + '/model.safetensors', 'rb').read()[0]"),
    "bloat": ("shard/empty_file", "b'1' * (500 << 20)"),
}


@pytest.mark.parametrize("verdict", CULPRITS)
def test_the_judge_detects_harm_by_another_program(verdict: str) -> None:
    name, code = CULPRITS[verdict]
    command = f'{sys.executable} -c "import os, shutil, sys; b, out = sys.argv[1:]; {code}" {{b}} {{out}}'
    (outcome,) = attacked(f"^{name}$", "--command", command, "--wait", "5", "--memory", "400").values()
    assert outcome["verdict"] == verdict, outcome


def test_the_judge_detects_a_hang() -> None:
    command = f'{sys.executable} -c "while True: pass" {{b}} {{out}}'
    (outcome,) = attacked("^shard/empty_file$", "--command", command, "--seconds", "1").values()
    assert outcome["verdict"] == "hang", outcome


def test_the_judge_detects_a_pickle_that_runs() -> None:
    code = "import pickle, sys; pickle.load(open(sys.argv[1] + '/model.safetensors', 'rb'))"
    (outcome,) = attacked("pickle_called", "--command", f'{sys.executable} -c "{code}" {{b}} {{out}}').values()
    assert (outcome["verdict"], outcome["detail"]) == ("harm", "code from an input ran")
