"""How g++ compiles the extension modules: the flags of each part and of each ISA's file.

setup.py and bench/gpu/build.py build the same sources; nothing is tuned to the machine that builds.
"""

from __future__ import annotations

import platform

COMMON = ["-O3", "-Wall", "-Wextra"]
# The contract: every operation is rounded as written, and nothing is fused.
PARTS = {"cpu": ["-ffp-contract=off", "-fno-fast-math"], "cuda": []}

_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
# GCC 12 warns about the undefined registers inside its own intrinsics (GCC bug 105593).
_QUIET = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
_X86 = {
    "avx2.cpp": _AVX2,
    "avx512.cpp": [*_AVX2, "-mavx512f", "-mavx512bw", *_QUIET],
    "crc32c_sse42.cpp": ["-msse4.2"],
    "crc32c_vpclmul.cpp": ["-msse4.2", "-mpclmul", "-mavx512f", "-mvpclmulqdq", *_QUIET],
}
_ARM = {"crc32c_arm.cpp": ["-march=armv8-a+crc"]}
_ISAS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}


def of_isa(source: str) -> list[str]:
    """The flags that the file named `source` needs on this machine, beyond those of its part."""
    return _ISAS.get(platform.machine().lower(), {}).get(source, [])
