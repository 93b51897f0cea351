"""Builds mi_kernels._cpu, and mi_kernels._cuda when asked to.

Each ISA file of the CPU part gets its own flags; nothing is tuned to the machine that builds.

MI_KERNELS_CUDA=cu128 (or cu126, cu130, ...: any version from 12.4 on) adds the CUDA part for that version, and +cu128
to the version of the package. It needs no CUDA toolkit and no GPU: pip fetches the compiler library from PyPI
(tools/cuda_toolkit.py), and the extension itself is plain C++. Unset or empty, nothing of CUDA is built or fetched.

MI_KERNELS_SANITIZE=address,undefined builds the CPU part with these sanitizers, for tests/native/sanitize.sh.
"""

import os
import sys
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "tools"))
import extension_flags  # noqa: E402

CUDA = os.environ.get("MI_KERNELS_CUDA", "")
SANITIZE = os.environ.get("MI_KERNELS_SANITIZE", "")

CPU_SOURCES = [
    "binding",
    "combine_binding",
    "guard",
    "guard_binding",
    "isa",
    "run",
    "virtual_run",
    "virtual_binding",
    "crc32c",
    "crc32c_sse42",
    "crc32c_vpclmul",
    "crc32c_arm",
    "crc32c_binding",
    "values_binding",
    "tensors_binding",
    "scalar",
    "avx2",
    "avx512",
    "neon",
]
CUDA_SOURCES = ["binding", "driver", "launch", "fatbin"]


class BuildExt(build_ext):
    """setuptools compiles every source of an extension with the same flags; this adds those of the file at hand."""

    def build_extensions(self) -> None:
        compile_one = self.compiler._compile

        def with_isa_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):  # type: ignore[no-untyped-def]
            flags = extension_flags.of_isa(src.rsplit("/", 1)[-1])
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *flags], pp_opts)

        self.compiler._compile = with_isa_flags
        super().build_extensions()

    def build_extension(self, ext) -> None:  # type: ignore[no-untyped-def]
        if ext.name == "mi_kernels._cuda":
            import fatbin

            path = Path(self.build_temp).resolve() / f"kernels.{CUDA}.fatbin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fatbin.build(CUDA))
            ext.define_macros += [("MI_FATBIN", f'"{path}"'), ("MI_CUDA_VERSION", f'"{CUDA}"')]
            ext.depends = [*ext.depends, str(path)]
        super().build_extension(ext)


def extension(part: str, sources: list[str]) -> Pybind11Extension:
    return Pybind11Extension(
        f"mi_kernels._{part}",
        [f"csrc/{part}/{name}.cpp" for name in sources],
        depends=glob("csrc/*.h") + glob(f"csrc/{part}/*.h"),
        cxx_std=17,
        extra_compile_args=[*extension_flags.COMMON, *extension_flags.PARTS[part]],
    )


def sanitized(ext: Pybind11Extension) -> Pybind11Extension:
    """`ext` with the sanitizers that were asked for; the first fault ends the process."""
    if SANITIZE:
        flags = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
        ext.extra_compile_args += [*flags, "-O1"]
        ext.extra_link_args += flags
    return ext


extensions = [sanitized(extension("cpu", CPU_SOURCES))]
for_cuda = {}
if CUDA:
    import cuda_toolkit

    extensions.append(extension("cuda", CUDA_SOURCES))
    for_cuda = {
        # pip installs these into the build's own environment.
        "setup_requires": cuda_toolkit.requirements(CUDA),
        # A build folder of its own: setuptools packs whatever it finds there, so one for another version would leak.
        "options": {"egg_info": {"tag_build": f"+{CUDA}"}, "build": {"build_base": f"build/{CUDA}"}},
    }

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExt}, **for_cuda)
