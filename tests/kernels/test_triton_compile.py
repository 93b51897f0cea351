"""The Triton kernel as compiled ahead of time for every supported GPU: wide accesses, exact arithmetic, no spills.

No GPU is needed: Triton brings its own ptxas.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from ..support import ROOT

pytest.importorskip("triton")

SCRIPT = ROOT / "tests" / "support" / "compile_triton.py"
ARCHITECTURES = [80, 86, 89, 90, 100, 120]
VECTORS = {0: 1, 1: 1, 2: 2}  # 16-byte accesses for a thread's 8 elements: bf16, float16, float32
PATHS = 3  # the kernel copies a, copies b, or interpolates


@cache
def compiled(architecture: int) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), str(architecture)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(params=ARCHITECTURES)
def kernels(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return compiled(request.param)


def test_aligned_tensors_are_read_and_written_16_bytes_at_a_time(kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        out, a, b = (VECTORS[code] for code in kernel["triple"])
        ptx, sass = kernel["inline_ptx"], kernel["sass"]
        # a and b are each read by their copy and by the interpolation.
        assert ptx.get("ld.global.v4.b32") == 2 * (a + b), kernel["triple"]
        assert ptx.get("st.global.v4.b32") == PATHS * out, kernel["triple"]
        assert sass["LDG.E.128"] >= 2 * (a + b)
        assert sass["STG.E.128"] >= PATHS * out


def test_only_the_wide_loops_assume_alignment(kernels: list[dict[str, Any]]) -> None:
    """Every tensor is pointed into twice: by the wide loop with a promise, for single elements without."""
    pointers = 2 + 2 + 3  # out with a, out with b, and all three
    for kernel in kernels:
        assert (kernel["promised"], kernel["unpromised"]) == (pointers, pointers), kernel["triple"]


def test_arithmetic_is_rounded_once_and_fused_only_where_written(kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        arithmetic = {
            name
            for name in kernel["ptx"]
            if name.split(".")[0] in ("add", "sub", "mul", "mad", "fma", "div") and ".f" in name
        }
        # add: w - 1. f32x2: two lanes in one instruction, each rounded on its own (Blackwell).
        assert {name.replace("f32x2", "f32") for name in arithmetic} == {"add.rn.f32", "sub.rn.f32", "fma.rn.f32"}
        assert kernel["ptx"]["add.rn.f32"] == 1
        fused, differences = (
            sum(n * (2 if "x2" in name else 1) for name, n in kernel["ptx"].items() if name.startswith(start))
            for start in ("fma.rn", "sub.rn")
        )
        assert fused == differences > 0
        assert not [name for name in kernel["ptx"] if "ftz" in name or "approx" in name]
        assert not [name for name in kernel["sass"] if "FTZ" in name or name.startswith("FMUL")]


def test_float16_is_rounded_to_nearest_even(kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        narrowing = {
            name for name in kernel["ptx"] if name.startswith("cvt.") and ".f16" in name and "f32.f16" not in name
        }
        wanted = {"cvt.rn.f16.f32", "cvt.rn.f16x2.f32"} if kernel["triple"][0] == 1 else set()
        assert narrowing <= wanted
        assert bool(narrowing) == bool(wanted)


def test_nothing_spills_and_many_programs_fit(kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        assert kernel["usage"]["STACK"] == kernel["usage"]["LOCAL"] == 0, kernel["triple"]
        assert not [name for name in kernel["sass"] if name.startswith(("LDL", "STL"))]
        # 65,536 registers an SM: at 64 a thread, 8 programs of 128 threads hold 32 KiB of loads in flight.
        assert kernel["usage"]["REG"] <= 64
