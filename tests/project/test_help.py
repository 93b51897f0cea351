"""Every script prints its help when asked, and does nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import ROOT

SCRIPTS = [
    *sorted((ROOT / "examples").glob("*.py")),
    *(path for path in sorted((ROOT / "tools").glob("*.py")) if "__main__" in path.read_text()),
]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in sorted((ROOT / "bench").rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text() and path.parent.name != "programs"  # started by other programs
]


def asked(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words, "--help"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_scripts(script: Path, tmp_path: Path) -> None:
    done = asked([str(script)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script.name} ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", MODULES)
def test_modules(module: str, tmp_path: Path) -> None:
    done = asked(["-m", module], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []
