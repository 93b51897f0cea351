"""The spans of a merge through the compiled CUDA kernels, which run on the host over a driver of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import ROOT, cuda_host


@pytest.mark.skipif(cuda_host.GXX is None, reason=cuda_host.NO_GXX)
def test_a_piece_is_one_copy_each_way_and_one_launch_for_each_combination(tmp_path: Path) -> None:
    pytest.importorskip("pybind11", reason="no pybind11 to compile the binding with")
    pytest.importorskip("torch")
    extension = cuda_host.compile_extension(tmp_path)
    libcuda = cuda_host.compile_library("driver.cpp", tmp_path / "libcuda.so.1")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.cuda_host.spans_session", str(libcuda), str(extension)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["equal"]
    assert seen["copies"] == {"copy_in": 1, "copy_out": 1}
    # One format throughout has a kernel of its own; the other 24 combinations share one.
    assert seen["launches"] == ["mi_lerp_bf16", "mi_lerp_f16", "mi_lerp_f32", *["mi_lerp_mixed"] * 24]
