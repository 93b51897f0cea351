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

LERP = ("mi_lerp_bf16", "mi_lerp_f16", "mi_lerp_f32", "mi_lerp_mixed")
UNIFORM = LERP[:3]
# By the number of models, and the blocks of 256 threads that fit a multiprocessor (csrc/cuda/combine_kernels.h).
COMBINE_BF16 = {f"mi_combine_bf16_{k}": (k, blocks) for k, blocks in ((2, 4), (3, 4), (4, 3), (5, 2))}
COMBINE_MIXED = {f"mi_combine_mixed_{k}": (k, blocks) for k, blocks in ((2, 3), (3, 3), (4, 2), (5, 2))}
COMBINE = {**COMBINE_BF16, **COMBINE_MIXED}
# Five models of any formats need a few more than the 128 registers that two blocks leave. CUDA 13.5 puts up to eight of
# them into local memory, which the first-level cache holds. That costs less than half of the threads would.
MAY_SPILL = "mi_combine_mixed_5"
ANY = "mi_combine_any"
COUNT = ("mi_count_upper", "mi_count_lower")
STATISTICS = (*COUNT, "mi_find_upper", "mi_find_lower", "mi_moment_parts", "mi_moment_totals")
KERNELS = (*LERP, *COMBINE, ANY, *STATISTICS)
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


@cache
def ptx_of_nvcc() -> str:
    assert NVCC
    command = [NVCC, "-std=c++17", "-fmad=false", "-ptx", f"-arch=compute_{cuda_toolkit.PTX}", "-o", "/dev/stdout"]
    done = subprocess.run([*command, str(fatbin.SOURCE)], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


COMPILERS = [
    pytest.param(
        with_nvrtc,
        id="nvrtc",
        marks=pytest.mark.skipif(TAG is None, reason="no NVRTC: pip install nvidia-cuda-nvrtc nvidia-nvfatbin"),
    ),
    pytest.param(
        with_nvcc,
        id="nvcc",
        marks=pytest.mark.skipif(
            NVCC is None or TAG is not None,
            reason="no nvcc on PATH, or NVRTC is installed: one compiler a run is enough",
        ),
    ),
]


@pytest.fixture(params=COMPILERS)
def compile_for(request: pytest.FixtureRequest) -> Compile:
    return request.param


def code_for(compile_for: Compile, arch: str) -> tuple[bytes, str]:
    if compile_for is with_nvrtc and TAG and arch not in fatbin.architectures(TAG):
        pytest.skip(f"{TAG} is older than {arch}")
    return compile_for(arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_registers_leave_blocks_enough_and_nothing_spills(compile_for: Compile, arch: str) -> None:
    _, log = code_for(compile_for, arch)
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert spills
        assert registers
        spilled = 32 if name == MAY_SPILL else 0
        assert max(int(spills[2]), int(spills[3])) <= spilled, part
        # The kernel for any number of models indexes an array of 16 float32 by the model.
        assert int(spills[1]) <= (64 if name == ANY else spilled), part
        found[name] = int(registers[1])
    assert set(found) == set(KERNELS)
    for name, registers_used in found.items():
        blocks = 5 if name in LERP else COMBINE[name][1] if name in COMBINE else 4 if name in (ANY, *COUNT) else 1
        assert registers_used <= 65536 // (blocks * 256), (name, registers_used)


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
    for name in LERP:
        code = kernels[name]
        assert code.total(r"LDG\..*128.*"), name
        assert code.total(r"STG\..*128.*"), name
        assert not code.total(r"(LDL|STL).*"), name  # local memory: spills
        # .CONSTANT is the read-only path, which may miss what an earlier thread wrote to an output that is an input.
        assert not code.total(r"LDG\..*CONSTANT.*128.*"), name
        # One subtraction and one fma an element: a fused or split formula would count otherwise. The mixed kernel has
        # both forms of the formula side by side, and the compiler may share a subtraction between them.
        subtractions, fused = code.total(r"FADD(\..*)?"), code.total(r"FFMA(\..*)?")
        assert 0 < fused // (2 if name not in UNIFORM else 1) <= subtractions <= fused, name
        assert not code.total(r"FMUL.*|.*\.FTZ.*|DFMA.*|MUFU.*"), name
    for name in UNIFORM:
        assert kernels[name].longest_run(r"LDG\..*128.*", before=ARITHMETIC + r"|HADD2.*|STG.*") >= 6, name


@pytest.mark.parametrize("arch", ARCHS)
def test_machine_code_over_several_models(
    sass: Callable[[Compile, str], dict[str, Sass]], compile_for: Compile, arch: str
) -> None:
    """A group of every model is loaded with 16-byte accesses before any arithmetic: one for bf16, two for float32."""
    kernels = sass(compile_for, arch)
    for name, (models, _) in COMBINE.items():
        code, wide = kernels[name], 1 if name in COMBINE_BF16 else 2
        assert code.longest_run(r"LDG\..*128.*", before=ARITHMETIC + r"|HADD2.*|STG.*") >= wide * models, name
        # One store of bf16; of any dtype: bf16, float16, and two of float32.
        assert code.total(r"STG\..*128.*") == (1 if name in COMBINE_BF16 else 4), name
        assert code.total(r"(LDL|STL).*") <= (16 if name == MAY_SPILL else 0), name
        assert not code.total(r"LDG\..*CONSTANT.*128.*"), name
        # Division in full precision tests its operands, and only there, with instructions that flush.
        assert {op for op in code.count if ".FTZ" in op} <= {"FADD.FTZ", "FSETP.NEU.FTZ.AND", "FSETP.GTU.FTZ.AND"}, name
    for name in COUNT:
        assert kernels[name].total(r"LDG\..*128.*") == 4, name  # two tensors, of up to 32 bytes a group
        assert kernels[name].total(r"(REDG|ATOMG|RED)\..*ADD.*"), name
    assert kernels["mi_count_upper"].total(r"ATOMS.*")


@pytest.fixture(params=["nvrtc", "nvcc"])
def ptx(request: pytest.FixtureRequest) -> dict[str, str]:
    """The PTX of each kernel, which later chips compile."""
    if request.param == "nvcc":
        if NVCC is None:
            pytest.skip("no nvcc on PATH")
        text = ptx_of_nvcc()
    else:
        if TAG is None:
            pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc nvidia-nvfatbin")
        text = with_nvrtc(f"compute_{cuda_toolkit.PTX}")[0].decode()
    assert f".target sm_{cuda_toolkit.PTX}" in text
    assert ".ftz" not in text
    assert "ld.global.nc" not in text
    parts = {part.split("(")[0]: part for part in text.split(".visible .entry ")[1:]}
    assert set(parts) == set(KERNELS)
    return parts


def arithmetic(text: str) -> Counter[str]:
    return Counter(re.findall(r"\b((?:add|sub|mul|fma|mad|div|rcp)\.[a-z0-9.]*f(?:16|32|64)\w*)", text))


def test_ptx_has_wide_accesses_and_explicit_roundings(ptx: dict[str, str]) -> None:
    """Streaming 16-byte accesses, and roundings named in full."""
    for name in LERP:
        for access in ("ld.global.cs.v4", "st.global.cs.v4"):
            assert access in ptx[name], name
        found = arithmetic(ptx[name])
        assert set(found) == {"add.rn.f32", "sub.rn.f32", "fma.rn.f32"}, found
        # The mixed kernel has both forms of the formula, which share a subtraction.
        assert 0 <= found["fma.rn.f32"] - found["sub.rn.f32"] <= (0 if name in UNIFORM else 8)
        additions = re.findall(r"add\.rn\.f32.*?, (\S+);", ptx[name])
        assert set(additions) == {"0fBF800000"}  # -1, for w - 1


def test_ptx_fuses_only_where_a_formula_does(ptx: dict[str, str]) -> None:
    """csrc/combine.h counted by hand, for K models and eight elements: subtractions, divisions and fused operations as
    written. Equal products and sums of two formulas' parts may be computed once."""
    for name, (k, _) in COMBINE.items():
        found = arithmetic(ptx[name])
        assert set(found) == {f"{op}.rn.f32" for op in ("add", "sub", "mul", "fma", "div")}, found
        # Affine for each place of the largest weight; sum; task; the two elections; DARE without an election.
        fused = k * (k - 1) + (k - 1) + (k - 1) + 2 * ((k - 2) + (k - 1) + 1) + (k - 1)
        assert found["fma.rn.f32"] == 8 * fused, name
        assert found["sub.rn.f32"] == 8 * (k * (k - 1) + 4 * (k - 1)), name
        assert found["div.rn.f32"] == 8 * 2 + 2 * (k - 1), name  # of the elections; 1 / density for each group
        assert found["mul.rn.f32"] <= 8 * (1 + 1 + 2 * k + 2 * (k - 1) + 1) + 2 * (k - 1), name
        assert found["add.rn.f32"] <= 8 * 2 * (k - 1), name
        assert len(re.findall(r"ld\.global\.cs\.v4", ptx[name])) == k * (1 if name in COMBINE_BF16 else 2), name
    assert set(arithmetic(ptx[ANY])) == {f"{op}.rn.f32" for op in ("add", "sub", "mul", "fma", "div")}


def test_ptx_of_statistics_rounds_like_the_cpu(ptx: dict[str, str]) -> None:
    """float64 is added and multiplied one operation at a time; differences are rounded to float32."""
    for name in COUNT:
        assert set(arithmetic(ptx[name])) == {"sub.rn.f32"}
    assert set(arithmetic(ptx["mi_moment_parts"])) == {"sub.rn.f32", "add.rn.f64", "mul.rn.f64"}
    assert set(arithmetic(ptx["mi_moment_totals"])) == {"add.rn.f64"}


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
