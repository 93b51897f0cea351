"""Compiles the Triton kernel ahead of time, without a GPU, and prints what came out as JSON lines.

    python tests/support/compile_triton.py 80 90        one line an architecture and dtype triple

A program of its own, since under TRITON_INTERPRET=1 there is nothing to compile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mi_kernels.backends import triton_kernels as kernels
from mi_kernels.backends.triton import CHUNK

# (out, a, b): each dtype alone, then mixtures. 0 bf16, 1 float16, 2 float32.
TRIPLES = [(0, 0, 0), (1, 1, 1), (2, 2, 2), (0, 1, 2), (2, 0, 1)]
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compiled(architecture: int, triple: tuple[int, int, int]) -> Any:
    constants = dict(zip(("OUT", "A", "B"), triple))
    constants |= {"CHUNK": CHUNK, "STEP": kernels.STEP, "REST": kernels.REST, "EMULATE_FMA": False}
    signature = {"tensors": "*i64", "weights": "*fp32", "chunk_tensor": "*i32", "chunk_start": "*i64"}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernels.lerp_chunks, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=dict(kernels.OPTIONS))


def tool(name: str, *arguments: str) -> str:
    # cuobjdump looks for nvdisasm in PATH.
    environment = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def facts(architecture: int, triple: tuple[int, int, int]) -> dict[str, Any]:
    """Counts of PTX and SASS instructions, the resources ptxas gave, and the alignment of pointers in TTGIR."""
    result = compiled(architecture, triple)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(result.asm["cubin"])
        usage = tool("cuobjdump", "-res-usage", str(cubin))
        sass = tool("nvdisasm", "-c", str(cubin))
    pointers = re.findall(r"tt\.addptr.*tensor<.*", result.asm["ttgir"])
    return {
        "architecture": architecture,
        "triple": triple,
        "ptx": Counter(re.findall(r"^\s*(?:@!?%p\d+ )?([a-z]\w*\.[\w.:]+)", result.asm["ptx"], re.MULTILINE)),
        "inline_ptx": Counter(re.findall(r"\b(?:ld|st)\.global[\w.:]*", result.asm["ptx"])),
        "sass": Counter(re.findall(r"\b((?:LDG|STG|LDL|STL|FMUL|FFMA|FADD)[\w.]*)", sass)),
        "usage": {name: int(value) for name, value in re.findall(r"([A-Z]+)(?:\[\d\])?:(\d+)", usage)},
        "promised": sum("tt.divisibility" in pointer for pointer in pointers),
        "unpromised": sum("tt.divisibility" not in pointer for pointer in pointers),
    }


if __name__ == "__main__":
    for number in sys.argv[1:]:
        for dtypes in TRIPLES:
            print(json.dumps(facts(int(number), dtypes)), flush=True)
