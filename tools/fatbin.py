"""Compiles csrc/cuda/kernels.cu into one fat binary: machine code for each chip, and PTX for the others.

    python tools/fatbin.py cu128 -o kernels.fatbin

Uses NVRTC and nvFatbin as pip installs them (tools/cuda_toolkit.py). setup.py calls `build` for MI_KERNELS_CUDA.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Iterable
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path

import cuda_toolkit

SOURCE = Path(__file__).resolve().parent.parent / "csrc" / "cuda" / "kernels.cu"

# The contract: every operation rounded as written, nothing fused or flushed. These are the compiler's defaults but for
# fmad; said aloud, as the bits depend on them. NVRTC and nvcc take the same words.
CONTRACT = ["--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"]
OPTIONS = [
    *CONTRACT,
    f"--include-path={SOURCE.parent}",
    f"--include-path={SOURCE.parent / 'nvrtc'}",
    # NVRTC knows these by their C names only.
    "--define-macro=__builtin_memcpy=memcpy",
    "--define-macro=__builtin_fabsf=fabsf",
]


class CompileError(Exception):
    """A library refused; holds its log."""


class _Nvrtc:
    def __init__(self, path: Path) -> None:
        # NVRTC opens its builtins by bare name, which finds them where they have been loaded before.
        for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins))
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = c_char_p

    def check(self, code: int, log: str = "") -> None:
        if code:
            raise CompileError(f"{self._library.nvrtcGetErrorString(code).decode()}\n{log}".strip())

    def supported(self) -> set[int]:
        count = c_int()
        self.check(self._library.nvrtcGetNumSupportedArchs(byref(count)))
        archs = (c_int * count.value)()
        self.check(self._library.nvrtcGetSupportedArchs(archs))
        return set(archs)

    def compile(self, arch: str, options: Iterable[str] = ()) -> tuple[bytes, str]:
        """(cubin for "sm_90" or PTX for "compute_90", the compiler's log)."""
        program = c_void_p()
        source = SOURCE.read_bytes()
        self.check(self._library.nvrtcCreateProgram(byref(program), source, SOURCE.name.encode(), 0, None, None))
        try:
            given = [f"--gpu-architecture={arch}", *OPTIONS, *options]
            arguments = (c_char_p * len(given))(*(option.encode() for option in given))
            code = self._library.nvrtcCompileProgram(program, len(given), arguments)
            log = self._get(program, "ProgramLog").rstrip(b"\0").decode()
            self.check(code, log)
            return self._get(program, "CUBIN" if arch.startswith("sm_") else "PTX"), log
        finally:
            self._library.nvrtcDestroyProgram(byref(program))

    def _get(self, program: c_void_p, what: str) -> bytes:
        size = c_size_t()
        self.check(getattr(self._library, f"nvrtcGet{what}Size")(program, byref(size)))
        data = ctypes.create_string_buffer(size.value)
        self.check(getattr(self._library, f"nvrtcGet{what}")(program, data))
        return data.raw


def compile_one(tag: str, arch: str, options: Iterable[str] = ()) -> tuple[bytes, str]:
    """(code, log) for one chip: "sm_90" gives a cubin, "compute_75" gives PTX.

    Raises:
        CompileError: the compiler refused.
        ToolkitError: the compiler is not installed.
    """
    return _Nvrtc(cuda_toolkit.library(tag, "libnvrtc")).compile(arch, options)


def architectures(tag: str) -> list[str]:
    """What the fat binary of `tag` holds, e.g. ["sm_80", ..., "compute_75"]."""
    supported = _Nvrtc(cuda_toolkit.library(tag, "libnvrtc")).supported()
    return [f"sm_{arch}" for arch in cuda_toolkit.SASS if arch in supported] + [f"compute_{cuda_toolkit.PTX}"]


def build(tag: str) -> bytes:
    """The fat binary for CUDA version `tag`. Not compressed inside: a wheel is, and every driver reads it so."""
    library = ctypes.CDLL(str(cuda_toolkit.library(tag, "libnvfatbin")))
    library.nvFatbinGetErrorString.restype = c_char_p

    def check(code: int) -> None:
        if code:
            raise CompileError(f"nvFatbin: {library.nvFatbinGetErrorString(code).decode()}")

    handle = c_void_p()
    options = (c_char_p * 3)(b"-64", b"-host=linux", b"-compress=false")
    check(library.nvFatbinCreate(byref(handle), options, len(options)))
    try:
        for arch in architectures(tag):
            code, _ = compile_one(tag, arch)
            kind, number = arch.split("_")
            name = f"{SOURCE.stem}.{arch}".encode()
            if kind == "sm":
                check(library.nvFatbinAddCubin(handle, code, c_size_t(len(code)), number.encode(), name))
            else:
                check(library.nvFatbinAddPTX(handle, code, c_size_t(len(code)), number.encode(), name, b""))
        size = c_size_t()
        check(library.nvFatbinSize(handle, byref(size)))
        data = ctypes.create_string_buffer(size.value)
        check(library.nvFatbinGet(handle, data))
        return data.raw
    finally:
        library.nvFatbinDestroy(byref(handle))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tag", help="CUDA version: cu126, cu128, cu130, ...")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        data = build(arguments.tag)
    except (CompileError, cuda_toolkit.ToolkitError) as error:
        print(error, file=sys.stderr)
        return 2
    arguments.output.write_bytes(data)
    print(f"{arguments.output}: {len(data):,} bytes; {', '.join(architectures(arguments.tag))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
