"""Compiles the Triton kernel over several models ahead of time: prints the counted PTX of each variant as JSON.

python tests/support/compile_triton_combine.py 90
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mi_kernels._cpu import Formula
from mi_kernels.backends import triton_combine_kernels as kernels

SIGNATURE = {"tensors": "*i64", "numbers": "*fp32", "chunk_tensor": "*i32", "chunk_start": "*i64"}


def main() -> None:
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    for formula in (Formula.AFFINE, Formula.SUM, Formula.TASK):
        for types in (0, 0b10_00_01_10):  # bf16 throughout; out and the last model float32, the others float16 and bf16
            fixed = {"FORMULA": int(formula), "MODELS": 3, "LARGEST": 1, "TYPES": types, "CHUNK": 32768}
            fixed |= {"STEP": 1024, "EMULATE_FMA": False}
            signature = SIGNATURE | dict.fromkeys(fixed, "constexpr")
            source = ASTSource(kernels.combine_chunks, signature, constexprs=fixed)
            ptx = compile_kernel(source, target=target, options=kernels.OPTIONS).asm["ptx"]
            count = Counter(re.findall(r"\b[a-z]+\.[a-z0-9_.:]+", ptx))
            print(json.dumps({"formula": formula.name, "types": types, "ptx": count}))


if __name__ == "__main__":
    main()
