"""One side of `bench.compare`: times the mi_kernels of the folder that it is started in.

    python -c "$(cat bench/programs/compare.py)" INPUTS

Reads lines of the form `CALLS ROW` from stdin and answers each with the mean seconds of a call. The line `rows` asks
for the names of the rows.

Every import of mi_kernels is in this file, and all of them are public names that each version has had:
`mi_kernels.lerp`, `multi_lerp`, `lerp_checkpoint` and `mi_kernels.cli.main`. So BASE may have any layout of modules.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mi_kernels

LAM = 0.8
MIB = 1 << 20


def tensor(dtype: str, nbytes: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(1 << 20, dtype=np.float32)
    n = nbytes // np.dtype(dtype).itemsize
    if dtype == "uint16":  # bf16
        pool = (pool.view(np.uint32) >> 16).astype(np.uint16)
    a, b = (np.resize(np.roll(pool, shift).astype(dtype), n) for shift in (0, 1))
    out = np.empty_like(a)
    return lambda: mi_kernels.lerp(a, b, LAM, out, threads=1)


def small_tensors() -> Callable[[], object]:
    a, b, outs = ([np.full(256, value, np.float32) for _ in range(4000)] for value in (1, 2, 0))
    return lambda: mi_kernels.multi_lerp(a, b, LAM, outs, threads=1)


def files(inputs: Path) -> Callable[[], object]:
    out = inputs / f"out-{os.getpid()}"

    def merge() -> None:
        mi_kernels.lerp_checkpoint(str(inputs / "a"), str(inputs / "b"), str(out), lam=LAM, progress=False)
        shutil.rmtree(out)

    return merge


def command_line() -> None:
    code = "from mi_kernels.cli import main; main(['--version'])"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


ROWS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "lerp bf16, 16 KiB": lambda _: tensor("uint16", MIB // 64),
    "lerp bf16, 1 MiB": lambda _: tensor("uint16", MIB),
    "lerp bf16, 64 MiB": lambda _: tensor("uint16", 64 * MIB),
    "lerp float16, 1 MiB": lambda _: tensor("float16", MIB),
    "lerp float32, 1 MiB": lambda _: tensor("float32", MIB),
    "multi_lerp, 4,000 small tensors": lambda _: small_tensors(),
    "lerp_checkpoint, 100 MB": files,
    "mi-kernels --version": lambda _: command_line,
}


def main() -> None:
    here = Path(mi_kernels.__file__).resolve()
    if Path.cwd().resolve() not in here.parents:
        raise SystemExit(f"mi_kernels comes from {here}, not from {Path.cwd()}")
    ready: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        if line.strip() == "rows":
            print("\t".join(ROWS), flush=True)
            continue
        calls, name = line.rstrip("\n").split(" ", 1)
        if name not in ready:
            ready[name] = ROWS[name](Path(sys.argv[1]))
            ready[name]()
        work = ready[name]
        started = time.perf_counter()
        for _ in range(int(calls)):
            work()
        print((time.perf_counter() - started) / int(calls), flush=True)


main()
