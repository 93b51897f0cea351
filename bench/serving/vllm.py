"""vLLM on a merge: the time to start, and to change lam while it runs, compared with what vLLM itself needs.

    python -m bench.serving   # checkpoints like Qwen3-0.6B; needs an environment with vLLM
    python -m bench.serving --json bench/results/serving.json

start: seconds of `vllm.LLM(...)` on one plain checkpoint, and with load_format="mi_kernels" on two. Each is a separate
process, they alternate, and the page cache is warm. `read` reads the second checkpoint.

change: seconds of `set_lam` on a CPU, where vLLM packs the weights again. It is compared with one pass of `multi_lerp`
over the same weights in memory (`pass`), and with vLLM reloading weights that are already in memory (`reload`). Before
anything is timed, the tokens after a change are compared with those of an engine that started with that lam.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import results
from ..models import checkpoint, home, parser, wanted_layout
from ..noise import ratios, show, spread
from ..registry import Benchmark

STARTS = ("plain", "merged")


def main(argv: Sequence[str] | None = None) -> None:
    options = parser("bench.serving", __doc__, rounds=5)
    arguments = options.parse_args(argv)
    wanted = wanted_layout(arguments)
    folder = home(arguments.folder)
    pair = [checkpoint(folder, wanted, seed) for seed in (1, 2)]
    starts: dict[str, list[float]] = {name: [] for name in (*STARTS, "read")}
    for _ in range(arguments.rounds):
        for name in STARTS:
            starts[name] += _worker(name, pair)["start"]
        starts["read"].append(_reading(pair[1]))
    changes = _worker("change", pair, arguments.rounds)
    rows = _rows(starts, changes)
    print(f"{wanted.name}\n{table(rows)}")
    if arguments.json:
        command = results.command_line("bench.serving", sys.argv[1:] if argv is None else argv)
        settings = {"model": wanted.name, "bytes": wanted.nbytes, "device": "cpu"}
        results.save(arguments.json, results.record("serving", command, settings, rows))


def _rows(starts: dict[str, list[float]], changes: dict[str, list[float]]) -> list[dict[str, Any]]:
    expected = [a + b for a, b in zip(starts["plain"], starts["read"])]
    least = [a + b for a, b in zip(changes["pass"], changes["reload"])]
    rows = [
        {"group": "start", "name": name, "seconds": spread(found), "of_needed": ratios(found, expected)}
        for name, found in starts.items()
    ]
    return rows + [
        {"group": "change", "name": name, "seconds": spread(found), "of_needed": ratios(found, least)}
        for name, found in changes.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds, and their ratio to what is needed anyway: plain and read to start; pass and reload to change."""
    return results.table(
        ["", "seconds (min - max)", "of what is needed"],
        [[f"{row['group']}: {row['name']}", show(row["seconds"], 1, 3), show(row["of_needed"])] for row in rows],
    )


def _reading(model: Path) -> float:
    began = time.perf_counter()
    block = bytearray(1 << 22)
    for path in model.glob("*.safetensors"):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass
    return time.perf_counter() - began


def _worker(what: str, pair: Sequence[Path], rounds: int = 1) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "bench.programs.serving", what, *map(str, pair), str(rounds)]
    env = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


# No step of `bench.all`: it needs an environment with vLLM.
BENCHMARK = Benchmark(name="serving", command="bench.serving", table=table)
