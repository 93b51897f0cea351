"""Builds mi_kernels._cpu. Each ISA file gets its own flags; nothing is tuned to the machine that builds."""

import platform
from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

X86 = platform.machine().lower() in ("x86_64", "amd64")

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
ISA_FLAGS = {
    "avx2.cpp": AVX2,
    # GCC 12 warns about the undefined registers inside its own intrinsics (GCC bug 105593).
    "avx512.cpp": [*AVX2, "-mavx512f", "-mavx512bw", "-Wno-maybe-uninitialized", "-Wno-uninitialized"],
}

SOURCES = [
    "binding",
    "combine_binding",
    "isa",
    "run",
    "virtual_run",
    "virtual_binding",
    "scalar",
    "avx2",
    "avx512",
    "neon",
]


class BuildExt(build_ext):
    """setuptools compiles every source of an extension with the same flags; this adds those of the file at hand."""

    def build_extensions(self) -> None:
        compile_one = self.compiler._compile

        def with_isa_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):  # type: ignore[no-untyped-def]
            flags = ISA_FLAGS.get(src.rsplit("/", 1)[-1], []) if X86 else []
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *flags], pp_opts)

        self.compiler._compile = with_isa_flags
        super().build_extensions()


setup(
    ext_modules=[
        Pybind11Extension(
            "mi_kernels._cpu",
            [f"csrc/cpu/{name}.cpp" for name in SOURCES],
            depends=glob("csrc/*.h") + glob("csrc/cpu/*.h"),
            cxx_std=17,
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-fast-math"],
        )
    ],
    cmdclass={"build_ext": BuildExt},
)
