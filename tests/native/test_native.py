"""Builds and runs prove.cpp: natively, and for Arm under emulation where the tools are installed."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mi_kernels import _cpu

SCRIPT = Path(__file__).with_name("prove.sh")
RANDOM_VALUES = "2"  # emulated arithmetic is slow; the special values are always all there


def prove(target: str) -> tuple[list[str], str]:
    """The ISAs that were compared, and the digest of their common results."""
    done = subprocess.run([SCRIPT, target, RANDOM_VALUES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, f"warnings:\n{done.stderr}"
    isas, last = done.stdout.splitlines()
    return isas.split(), last.split("digest ")[1]


@pytest.fixture(scope="module")
def native() -> tuple[list[str], str]:
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs Linux and g++")
    return prove("native")


def test_every_isa_of_this_machine_gives_the_scalar_bits(native: tuple[list[str], str]) -> None:
    assert native[0] == _cpu.isas()


def test_neon_gives_the_bits_of_this_machine(native: tuple[list[str], str]) -> None:
    """The scalar code here is proved against torch; an equal digest carries that over to NEON."""
    if platform.machine() == "aarch64":
        pytest.skip("the native run has done it")
    if not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")):
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    isas, digest = prove("aarch64")
    assert isas == ["neon", "scalar"]
    assert digest == native[1]
