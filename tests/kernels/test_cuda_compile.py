"""The CUDA kernels compiled for every chip, without one: registers, spills, and what the machine code does.

With NVRTC from PyPI (as the wheels are built) and with nvcc, whichever is there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from ..support import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import cuda_toolkit
import fatbin

KERNELS = ("mi_lerp_bf16", "mi_lerp_f16", "mi_lerp_f32", "mi_lerp_mixed")
UNIFORM = KERNELS[:3]
ARCHS = [f"sm_{arch}" for arch in cuda_toolkit.SASS]
TAG = cuda_toolkit.installed()
NVCC = shutil.which("nvcc")

Compile = Callable[[str], tuple[bytes, str]]


@cache
def with_nvrtc(arch: str) -> tuple[bytes, str]:
    assert TAG
    return fatbin.compile_one(TAG, arch, ["--ptxas-options=-v"])


@cache
def with_nvcc(arch: str) -> tuple[bytes, str]:
    assert NVCC
    command = [NVCC, "-std=c++17", "-fmad=false", "-cubin", f"-arch={arch}", "-Xptxas", "-v", "-o", "/dev/stdout"]
    done = subprocess.run([*command, str(fatbin.SOURCE)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout, done.stderr.decode()


COMPILERS = [
    pytest.param(
        with_nvrtc,
        id="nvrtc",
        marks=pytest.mark.skipif(TAG is None, reason="no NVRTC: pip install nvidia-cuda-nvrtc nvidia-nvfatbin"),
    ),
    pytest.param(with_nvcc, id="nvcc", marks=pytest.mark.skipif(NVCC is None, reason="no nvcc on PATH")),
]


@pytest.fixture(params=COMPILERS)
def compile_for(request: pytest.FixtureRequest) -> Compile:
    return request.param


def code_for(compile_for: Compile, arch: str) -> tuple[bytes, str]:
    if compile_for is with_nvrtc and TAG and arch not in fatbin.architectures(TAG):
        pytest.skip(f"{TAG} is older than {arch}")
    return compile_for(arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_registers_leave_five_blocks_a_multiprocessor_and_nothing_spills(compile_for: Compile, arch: str) -> None:
    _, log = code_for(compile_for, arch)
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert spills
        assert registers
        assert spills.groups() == ("0", "0", "0"), part
        found[part.split("'")[0]] = int(registers[1])
    assert set(found) == set(KERNELS)
    assert max(found.values()) <= 65536 // (5 * 256), found


class Sass:
    """One kernel's machine code: opcodes in order, without predicates and operands."""

    def __init__(self, text: str) -> None:
        pattern = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);"
        instructions = re.findall(pattern, text, re.MULTILINE)
        # w - 1, once a block or once an element as the compiler likes, is not the formula's subtraction.
        self.opcodes = [
            op for op, operands in instructions if not (op == "FADD" and operands.rstrip().endswith(", -1"))
        ]
        self.count = Counter(self.opcodes)

    def total(self, pattern: str) -> int:
        return sum(n for opcode, n in self.count.items() if re.fullmatch(pattern, opcode))

    def longest_run(self, of: str, before: str) -> int:
        """The most opcodes `of` with none of `before` among them."""
        longest = current = 0
        for opcode in self.opcodes:
            current = 0 if re.fullmatch(before, opcode) else current + bool(re.fullmatch(of, opcode))
            longest = max(longest, current)
        return longest


@pytest.fixture
def sass(tmp_path: Path) -> Callable[[Compile, str], dict[str, Sass]]:
    if cuda_toolkit.cuobjdump() is None:
        pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")

    def disassemble(compile_for: Compile, arch: str) -> dict[str, Sass]:
        cubin = tmp_path / "kernels.cubin"
        cubin.write_bytes(code_for(compile_for, arch)[0])
        parts = cuda_toolkit.run_cuobjdump("-sass", cubin).split("Function : ")[1:]
        return {part.split(None, 1)[0]: Sass(part) for part in parts}

    return disassemble


ARITHMETIC = r"(FADD|FMUL|FFMA)(\..*)?"


@pytest.mark.parametrize("arch", ARCHS)
def test_machine_code(sass: Callable[[Compile, str], dict[str, Sass]], compile_for: Compile, arch: str) -> None:
    """16-byte accesses, at least six of eight loads in flight before any is used (CUDA 12.6 to 13.0 leave one pair for
    after the first result on some chips), and no arithmetic but the formula's."""
    kernels = sass(compile_for, arch)
    assert set(kernels) == set(KERNELS)
    for name, code in kernels.items():
        assert code.total(r"LDG\..*128.*"), name
        assert code.total(r"STG\..*128.*"), name
        assert not code.total(r"(LDL|STL).*"), name  # local memory: spills
        # .CONSTANT is the read-only path, which may miss what an earlier thread wrote to an output that is an input.
        assert not code.total(r"LDG\..*CONSTANT.*128.*"), name
        # One subtraction and one fma an element: a fused or split formula would count otherwise.
        assert code.total(r"FADD(\..*)?") == code.total(r"FFMA(\..*)?") > 0, name
        assert not code.total(r"FMUL.*|.*\.FTZ.*|DFMA.*|MUFU.*"), name
    for name in UNIFORM:
        assert kernels[name].longest_run(r"LDG\..*128.*", before=ARITHMETIC + r"|HADD2.*|STG.*") >= 6, name


def test_ptx_has_wide_accesses_and_explicit_roundings() -> None:
    """The PTX that later chips compile: streaming 16-byte accesses, and roundings named in full."""
    if TAG is None:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc nvidia-nvfatbin")
    ptx = with_nvrtc(f"compute_{cuda_toolkit.PTX}")[0].decode()
    assert f".target sm_{cuda_toolkit.PTX}" in ptx
    for access in ("ld.global.cs.v4", "st.global.cs.v4"):
        assert access in ptx
    arithmetic = Counter(re.findall(r"\b((?:add|sub|mul|fma|mad)\.[a-z0-9.]*f(?:16|32|64)\w*)", ptx))
    assert set(arithmetic) == {"add.rn.f32", "sub.rn.f32", "fma.rn.f32"}, arithmetic
    assert arithmetic["sub.rn.f32"] == arithmetic["fma.rn.f32"]
    additions = re.findall(r"add\.rn\.f32.*?, (\S+);", ptx)
    assert set(additions) == {"0fBF800000"}  # -1, for w - 1
    assert ".ftz" not in ptx
    assert "ld.global.nc" not in ptx


@pytest.mark.skipif(TAG is None, reason="no NVRTC: pip install nvidia-cuda-nvrtc nvidia-nvfatbin")
def test_the_fat_binary_holds_every_chip(tmp_path: Path) -> None:
    assert TAG
    image = tmp_path / "kernels.fatbin"
    image.write_bytes(fatbin.build(TAG))
    assert image.read_bytes()[:4] == (0xBA55ED50).to_bytes(4, "little")
    if cuda_toolkit.cuobjdump() is None:
        pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    listed = cuda_toolkit.run_cuobjdump("-lelf", "-lptx", image)
    wanted = fatbin.architectures(TAG)
    assert re.findall(r"kernels\.(sm_\d+)\.cubin", listed) == [arch for arch in wanted if arch.startswith("sm_")]
    assert re.findall(r"kernels\.sm_(\d+)\.ptx", listed) == [str(cuda_toolkit.PTX)]


@pytest.mark.parametrize("tag", ["cu117", "cu123", "12.8", "cu12", "cu1280", "cuda"])
def test_unknown_cuda_versions_are_refused(tag: str) -> None:
    with pytest.raises(cuda_toolkit.ToolkitError, match=r"give a CUDA version from 12\.4 on"):
        cuda_toolkit.requirements(tag)


def test_packages_of_a_version() -> None:
    assert cuda_toolkit.requirements("cu128") == ["nvidia-cuda-nvrtc-cu12==12.8.*", "nvidia-nvfatbin-cu12==12.8.*"]
    assert cuda_toolkit.requirements("cu132") == ["nvidia-cuda-nvrtc==13.2.*", "nvidia-nvfatbin==13.2.*"]


def test_a_missing_toolkit_names_the_packages_to_install() -> None:
    with pytest.raises(cuda_toolkit.ToolkitError, match=r'python -m pip install "nvidia-cuda-nvrtc-cu12==12\.5\.\*"'):
        cuda_toolkit.library("cu125", "libnvrtc")
