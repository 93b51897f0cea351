"""Runs csrc/cuda on the CPU: its chunks as plain C++ (lanes.cpp), its binding over a driver of ours (driver.cpp)."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mi_kernels import _cpu

HERE = Path(__file__).resolve().parent
GXX = shutil.which("g++")
NO_GXX = "no g++ to compile csrc/cuda for the CPU"

# By dtype code: bf16, float16, float32.
SIZES = (2, 2, 4)
TRIPLES = [(o, a, b) for o in range(3) for a in range(3) for b in range(3)]
# Copies, both forms of the formula and the boundary between them, extrapolation on either side.
WEIGHTS = (0.0, 1.0, 0.8, 0.3, 0.5, float(np.nextafter(np.float32(0.5), np.float32(0))), -0.0, 1.5, -0.25, -0.75)

Bytes = npt.NDArray[np.uint8]


def compile_library(source: str, output: Path, *flags: str) -> Path:
    """A file of this folder as a shared library. Alignment is checked inside it, which takes two steps: the check's
    answer is lanes.cpp's own function, not the one that a compiler would link."""
    compiled = output.with_suffix(".o")
    gxx("-O2", *WARNINGS, "-ffp-contract=off", "-fsanitize=alignment", "-c", HERE / source, *flags, "-o", compiled)
    gxx("-shared", compiled, f"-Wl,-soname,{output.name}", "-o", output)
    return output


def compile_extension(folder: Path) -> Path:
    """mi_kernels._cuda for this Python, alone in `folder`, around bytes that only look like a fat binary."""
    import pybind11

    image = folder / "image"
    image.write_bytes((0xBA55ED50).to_bytes(4, "little") + bytes(12))
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    defines = [f'-DMI_FATBIN="{image}"', '-DMI_CUDA_VERSION="cu128"']
    sources = sorted((HERE.parents[2] / "csrc" / "cuda").glob("*.cpp"))
    output = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    gxx(*WARNINGS, "-shared", "-fvisibility=hidden", *includes, *defines, *sources, "-ldl", "-o", output)
    return output


WARNINGS = ("-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror")


def gxx(*arguments: str | Path) -> None:
    assert GXX
    done = subprocess.run([GXX, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Pairs(NamedTuple):
    """Tensors of one dtype triple in three arenas of bytes, with bytes that belong to nobody between them.

    Attributes:
        triple: dtype codes of out, a and b.
        arenas: out, a and b; their starts are multiples of 64.
        offsets: int64 [T, 3]: where each tensor starts in each arena, in bytes.
        counts, weights: [T].
    """

    triple: tuple[int, int, int]
    arenas: tuple[Bytes, Bytes, Bytes]
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    @property
    def addresses(self) -> npt.NDArray[np.int64]:
        return self.offsets + np.array([arena.ctypes.data for arena in self.arenas], dtype=np.int64)

    def expected(self) -> Bytes:
        """The bytes of the output arena after the CPU's scalar kernels."""
        out = aligned(self.arenas[0].nbytes)
        out[:] = self.arenas[0]
        a, b = (out if arena is self.arenas[0] else arena for arena in self.arenas[1:])
        spans = [
            (out, int(o), a, int(x), b, int(y), int(n), float(w), *self.triple)
            for (o, x, y), n, w in zip(self.offsets, self.counts, self.weights)
        ]
        _cpu.lerp_spans(spans, "scalar")
        return out


def aligned(size: int) -> Bytes:
    buffer = np.zeros(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size]


def make_pairs(
    triple: tuple[int, int, int],
    counts: list[int],
    weights: list[float],
    seed: int,
    skews: list[tuple[int, int, int]] | None = None,
    in_place: int | None = None,
) -> Pairs:
    """Tensors of random bits (every exponent, some NaN and inf) and specials.

    Args:
        skews: elements by which out, a and b of each tensor lie off a multiple of 16 bytes; random if not given.
        in_place: 1 or 2: the output is a or b.
    """
    rng = np.random.default_rng(seed)
    offsets, ends = np.zeros((len(counts), 3), np.int64), [0, 0, 0]
    for i, n in enumerate(counts):
        for k, code in enumerate(triple):
            skew = skews[i][k] if skews else int(rng.integers(0, 16))
            offsets[i, k] = -(-ends[k] // 16) * 16 + skew * SIZES[code] + 16
            ends[k] = int(offsets[i, k]) + n * SIZES[code]
    arenas = [aligned(end + 16) for end in ends]
    for arena, code in zip(arenas, triple):
        arena[:] = rng.integers(0, 256, arena.nbytes, np.uint8)
        fill = arena[: arena.nbytes // 4 * 4].view(np.uint16 if SIZES[code] == 2 else np.uint32)
        at = rng.integers(0, fill.size, fill.size // 8)
        fill[at] = np.array(SPECIALS[code], fill.dtype)[rng.integers(0, len(SPECIALS[code]), at.size)]
    if in_place:
        assert triple[0] == triple[in_place]
        arenas[0] = arenas[in_place]
        offsets[:, 0] = offsets[:, in_place]
    lams = np.array(weights, np.float32)
    return Pairs(triple, (arenas[0], arenas[1], arenas[2]), offsets, np.array(counts, np.int64), lams)


# Zero, subnormals, the smallest normal, around 1, the largest, inf, NaN (signalling, quiet), both signs of some.
SPECIALS = (
    (0, 0x8000, 1, 0x7F, 0x80, 0x3F80, 0x3F81, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7F81, 0x7FC1, 0xFFC0),
    (0, 0x8000, 1, 0x3FF, 0x400, 0x3C00, 0x3C01, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0x7E01, 0xFE00),
    (
        *(0, 0x80000000, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x3F808000, 0x3F801000, 0x477FF000, 0x33000001),
        *(0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F8000, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00001, 0xFFC00000),
    ),
)
