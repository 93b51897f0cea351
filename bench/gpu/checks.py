"""The GPU tests and NVIDIA's compute-sanitizer, each run as a process. They must pass before anything is timed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("memcheck", "racecheck", "initcheck")
# Small tensors of every dtype, at every alignment: the sanitizer makes each access about a hundred times slower.
SUBSET = "(cuda or triton) and (all_sizes or unaligned or in_place or scalars)"
_FOUND = 99  # exit status of the sanitizer if it finds an error; pytest never uses it


def run_tests(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs pytest with these arguments. Returns whether it passed, the outcomes by backend, and the failed tests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
        done = _run(command, environment)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    outcomes: Counter[str] = Counter()
    failed = []
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "passed")
        outcomes[f"{_backend(name)} {outcome}"] += 1
        if outcome in ("failure", "error"):
            failed.append(name)
    passed = done.returncode == 0 and any(key.endswith("passed") for key in outcomes)
    found: dict[str, Any] = {"passed": passed, "outcomes": dict(sorted(outcomes.items())), "failed": failed}
    if not passed:
        found["output"] = (done.stdout + done.stderr)[-4000:]
    return found


def _backend(name: str) -> str:
    parameters = name.partition("[")[2].rstrip("]").split("-")
    return next((part for part in parameters if part in ("cuda", "triton", "reference")), "other")


def find_sanitizer() -> str | None:
    """The path of compute-sanitizer: on PATH, in /usr/local/cuda, or in a package of this environment."""
    if found := shutil.which("compute-sanitizer"):
        return found
    packages = Path(sysconfig.get_path("purelib"))
    places = [Path("/usr/local/cuda/bin/compute-sanitizer"), *packages.glob("nvidia/**/compute-sanitizer")]
    return next((str(place) for place in places if os.access(place, os.X_OK) and place.is_file()), None)


def run_sanitizer(program: str | None, tests: Sequence[str]) -> dict[str, Any]:
    """Runs each tool on some tests. Returns `missing` if compute-sanitizer is not installed."""
    if program is None:
        return {"missing": "compute-sanitizer is not installed (it comes with the CUDA toolkit)"}
    found: dict[str, Any] = {"program": program}
    # Without torch's cache every tensor is a separate allocation, so that an access beyond its end is an error.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool in TOOLS:
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        done = _run([program, "--tool", tool, "--error-exitcode", str(_FOUND), *pytest], environment)
        summary = [line.strip("= \n") for line in done.stdout.splitlines() if "SUMMARY" in line]
        found[tool] = {"clean": done.returncode == 0, "status": done.returncode, "summary": summary}
        if done.returncode != 0:
            found[tool]["output"] = (done.stdout + done.stderr)[-4000:]
    return found


def _run(command: Sequence[str], environment: Mapping[str, str] | None) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, check=False)
