"""What CI prints of a crash: tools/core_backtraces.sh shows where the program died."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import ROOT

SCRIPT = ROOT / "tools" / "core_backtraces.sh"
PATTERN = Path("/proc/sys/kernel/core_pattern")

pytestmark = [
    pytest.mark.skipif(not PATTERN.exists() or PATTERN.read_text().startswith("|"), reason="cores are not files here"),
    pytest.mark.skipif(not (shutil.which("gdb") and shutil.which("readelf")), reason="needs gdb and readelf"),
]


def shell(command: str, folder: Path) -> str:
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True).stdout


def test_a_crash_is_shown_and_older_ones_are_not(tmp_path: Path) -> None:
    crash = f"ulimit -c unlimited && {sys.executable} -c 'import ctypes; ctypes.string_at(0)'"
    if shell("ulimit -c unlimited || echo refused", tmp_path):
        pytest.skip("cores may not be dumped here")
    report = shell(f"touch began; {crash}; {SCRIPT} began .", tmp_path)
    assert report.count("string_at") >= 1
    assert "Segmentation fault" in report
    (tmp_path / "core of nothing").write_text("no core")
    assert shell(f"sleep 0.01; touch began; {SCRIPT} began .", tmp_path) == ""
    for core in tmp_path.glob("core*"):
        core.unlink()  # a core that stays is evidence of a crash that nobody meant
