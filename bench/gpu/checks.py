"""The GPU tests and NVIDIA's compute-sanitizer, each run as a process. They must pass before anything is timed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("memcheck", "racecheck", "initcheck")
# Small tensors of every dtype, at every alignment: the sanitizer makes each access about a hundred times slower.
SUBSET = "test_combine or ((cuda or triton) and (all_sizes or unaligned or in_place or scalars))"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
VENDOR = "vendor"  # in a packed folder: packages that the other machine may lack
_FOUND = 99  # exit status of the sanitizer if it finds an error; pytest never uses it


def run_tests(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs pytest with these arguments. Returns whether it passed, the outcomes by backend, and the failed tests.

    What pytest prints is also printed here, as it comes.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [*PYTEST, f"--junitxml={report}", "--durations=5", *arguments]
        status, output = run(command, environment)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    outcomes: Counter[str] = Counter()
    failed = []
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "passed")
        outcomes[f"{_backend(name)} {outcome}"] += 1
        if outcome in ("failure", "error"):
            failed.append(name)
    passed = status == 0 and any(key.endswith("passed") for key in outcomes)
    found: dict[str, Any] = {"passed": passed, "outcomes": dict(sorted(outcomes.items())), "failed": failed}
    if not passed:
        found["output"] = output[-4000:]
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


def run_sanitizer(program: str, tool: str, tests: Sequence[str]) -> dict[str, Any]:
    """Runs one tool of compute-sanitizer on some tests. What it prints is also printed here, as it comes."""
    # Without torch's cache every tensor is a separate allocation, so that an access beyond its end is an error.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    status, output = run([program, "--tool", tool, "--error-exitcode", str(_FOUND), *PYTEST, *tests], environment)
    summary = [line.strip("= \n") for line in output.splitlines() if "SUMMARY" in line]
    return {"program": program, "clean": status == 0, "status": status, "summary": summary}


def environment_of(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process: this tree first on PYTHONPATH, then what the caller had there, then the
    packages that a packed folder brings."""
    places: Iterable[str] = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep), str(ROOT / VENDOR)]
    path = os.pathsep.join(dict.fromkeys(place for place in places if place and Path(place).exists()))
    return {**os.environ, "PYTHONPATH": path, **(added or {})}


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Runs a command in the root of the tree. Returns its exit status and what it printed, which is also printed."""
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT,
        env=environment_of(environment),
    )  # fmt: skip
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        print(line, end="", flush=True)
    return child.wait(), "".join(lines)
