"""What a new lam costs the host before the GPU starts, measured without a GPU.

    python -m bench.gpu.host_cost                # a table
    python -m bench.gpu.host_cost --json FILE    # also the numbers

The compiled CUDA binding runs over a stand-in for the driver (tests/support/cuda_host), whose launches do nothing. The
tensors have one element each and are in host memory. So what is timed is everything except the copy of the weights to
the device, the calls of torch's streams and events (a constant number for each call), and the kernel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch

import mi_kernels
from mi_kernels.backends import cuda
from mi_kernels.backends.device_table import Rows
from mi_kernels.backends.launches import PreparedLaunches
from mi_kernels.live import knob
from mi_kernels.ops import prepared

from .. import machine

GOALS = {398: 0.3e-3, 18_867: 10e-3}  # seconds of `set_lam`, by the number of pairs
_ROUNDS = 41


class Blocks(torch.nn.Module):
    """A model of `count` parameters, each in a module of its own, with the names of a mixture of experts."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.layers = torch.nn.ModuleList()
        for first in range(0, count, 3 * 128):
            layer = torch.nn.Module()
            layer.mlp = torch.nn.Module()
            layer.mlp.experts = torch.nn.ModuleList()
            for i in range(first, min(count, first + 3 * 128), 3):
                expert = torch.nn.Module()
                for name in ("gate_proj", "up_proj", "down_proj")[: count - i]:
                    linear = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
                    setattr(expert, name, linear)
                layer.mlp.experts.append(expert)
            self.model.layers.append(layer)


def seconds(work: Callable[[int], Any]) -> list[float]:
    """Seconds of each of several calls, after one that is not timed."""
    found = []
    for i in range(_ROUNDS + 1):
        started = time.perf_counter()
        work(i)
        found.append(time.perf_counter() - started)
    return found[1:]


def measure(count: int) -> dict[str, Any]:
    """Seconds of a new lam for `count` pairs, by what is called."""
    model, other = Blocks(count), Blocks(count)
    live = knob.attach(model, other)
    pairs = [list(m.parameters()) for m in (Blocks(count), Blocks(count), Blocks(count))]
    a, b, outs = ([x.detach() for x in tensors] for tensors in pairs)
    lams = [0.2 + i / 100 for i in range(_ROUNDS + 1)]
    started = time.perf_counter()
    plan = mi_kernels.prepare(a, b, outs)
    preparing = time.perf_counter() - started
    runs = {
        "Knob.set_lam": seconds(lambda i: live.set_lam(lams[i])),
        "Knob.set_lam, half of the layers": seconds(lambda i: live.set_lam(lams[i], layers="1/2:")),
        "Prepared.lerp": seconds(lambda i: plan.lerp(lams[i])),
        "Prepared.lerp, one lam a pair": seconds(lambda i: plan.lerp([lams[i]] * count)),
        "Prepared.lerp, the same lam": seconds(lambda i: plan.lerp(0.5)),
    }
    return {
        "pairs": count,
        "prepare": preparing,
        "seconds": {name: {"min": min(x), "median": median(x), "max": max(x)} for name, x in runs.items()},
        "goal": GOALS[count],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.host_cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--built", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from tests.support import cuda_host

    if arguments.built is None:
        # The stand-in must be loaded before anything asks for a driver: in a process of its own.
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cuda_host.compile_library("driver.cpp", folder / "libcuda.so.1")
            cuda_host.compile_extension(folder)
            command = [sys.executable, "-m", "bench.gpu.host_cost", *sys.argv[1:], "--built", str(folder)]
            return subprocess.run(command, check=False).returncode
    from tests.support.cuda_host import session

    fake = session.Fake(str(arguments.built / "libcuda.so.1"))
    session.load_extension(str(next(arguments.built.glob("_cuda*.so"))))
    fake.idle()

    def runner(backend: str, found: Any, *_: Any) -> PreparedLaunches:
        return PreparedLaunches(cuda, torch.device("cpu"), Rows(found.addresses, found.elements, found.codes))

    with mock.patch.object(prepared, "_runner", runner):
        results = [measure(count) for count in GOALS]
    print(f"{'milliseconds of the host':<36}{'pairs':>8}{'min':>9}{'median':>9}{'max':>9}{'goal':>9}")
    for found in results:
        for name, s in found["seconds"].items():
            goal = f"{found['goal'] * 1e3:>9.1f}" if name == "Knob.set_lam" else ""
            figures = "".join(f"{s[key] * 1e3:>9.3f}" for key in ("min", "median", "max"))
            print(f"{name:<36}{found['pairs']:>8,}{figures}{goal}")
    if arguments.json:
        report = {"machine": machine.describe(), "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
