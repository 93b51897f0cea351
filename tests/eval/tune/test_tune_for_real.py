"""A search with vLLM itself, where it is installed, on the tiny pair."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mi_kernels import merge_checkpoint

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
    pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs optuna"),
    pytest.mark.skipif(importlib.util.find_spec("pebble") is None, reason="needs pebble"),
]

ROOT = Path(__file__).parents[3]
PAIR = [str(ROOT / "eval" / "tiny_pair" / name) for name in ("instruct", "thinking")]
WORDS = ["--benchmark", "chains", "--samples", "2", "--limit", "24", "--lam", "0,0.5,1"]
WORDS += ["--space", "layers", "--sampler", "tpe", "--evaluations", "3"]


def tune(out: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "eval", "tune", *PAIR, *WORDS, "--out", str(out), *words]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(out.parent)}, text=True)


def responses(out: Path) -> list[str]:
    return sorted(f"{p.parent.name} {line}" for p in out.rglob("chains.jsonl") for line in p.read_text().splitlines())


@pytest.mark.slow
def test_a_killed_search_gives_the_responses_recipes_and_report_of_an_undisturbed_one(tmp_path, request):
    if "slow" not in request.config.getoption("-m"):
        pytest.skip(
            "minutes: asked for with -m slow; test_search.py kills searches with an engine that answers at once"
        )
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    process = tune(killed)
    third = killed / "candidates" / "0003" / "chains.jsonl"
    while process.poll() is None and not (third.exists() and third.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = responses(killed)
    assert kept
    assert not (killed / "best.yml").exists()
    assert tune(killed).wait(timeout=3600) == 0
    assert set(kept) <= set(responses(killed)), "a kill loses no finished response"
    assert tune(calm, "--write", str(tmp_path / "model")).wait(timeout=3600) == 0
    assert responses(killed) == responses(calm)
    for name in ("best.yml", "report/report.md"):
        assert (killed / name).read_text() == (calm / name).read_text()
    values = json.loads((calm / "report" / "report.json").read_text())
    assert values["evaluated"] == 6
    assert (tmp_path / "model" / "model.safetensors").exists()
    merge_checkpoint(calm / "best.yml", tmp_path / "again", progress=False)
    made = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")]
    assert made[0] == made[1]
