"""The GPU tests' bodies, run by Triton's interpreter on the CPU.

In a process of its own: Triton decides at import whether a kernel is compiled or interpreted.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ..support import ROOT

pytest.importorskip("triton")

FOLDER = ROOT / "tests" / "gpu"


@pytest.mark.parametrize(
    "file", ["test_bits.py", "test_combine.py", "test_launch.py", "test_pairs.py", "test_streaming.py"]
)
def test_the_interpreter_gives_the_contracts_bits(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-k", "triton or reference", str(FOLDER / file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
