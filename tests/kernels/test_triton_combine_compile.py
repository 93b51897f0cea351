"""The Triton kernel over several models as compiled ahead of time: wide accesses, only the formula's arithmetic."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ..support import ROOT

pytest.importorskip("triton")

SCRIPT = ROOT / "tests" / "support" / "compile_triton_combine.py"


@pytest.mark.parametrize("architecture", [80, 90, 100, 120])
def test_arithmetic_and_accesses(architecture: int) -> None:
    """For three models: what a thread does for its eight elements, in the wide loop and in that of single elements."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), str(architecture)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    variants = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(variants) == 6
    for variant in variants:
        ptx = variant["ptx"]
        found = dict.fromkeys(("add", "sub", "mul", "fma"), 0)
        for name, n in ptx.items():
            if name.split(".")[0] in ("add", "sub", "mul", "mad", "fma", "div") and ".f" in name:
                assert name.endswith((".rn.f32", ".rn.f32x2")), name
                found[name.split(".")[0]] += n * (2 if name.endswith("x2") else 1)
        differences = 0 if variant["formula"] == "SUM" else 32
        products = 0 if variant["formula"] == "AFFINE" else 16
        # A weight is never negated here: 0 - 0 would have another sign than -0.
        assert found == {"add": 0, "sub": differences, "mul": products, "fma": 32}, variant["formula"]
        assert not [name for name in ptx if "ftz" in name or "approx" in name]
        assert ptx["ld.global.v4.b32"] == (3 if variant["types"] == 0 else 4)
        assert ptx["st.global.v4.b32"] == (1 if variant["types"] == 0 else 2)
