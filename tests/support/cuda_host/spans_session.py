"""Run by test_cuda_spans.py in a process of its own, like session.py: spans through the compiled kernels on the host.

python -m tests.support.cuda_host.spans_session LIBCUDA EXTENSION
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch

from mi_kernels.backends import cpu, cuda, gpu_runner
from mi_kernels.backends.spans import Span
from mi_kernels.dtypes import CODE_SIZES

from ..fake_gpu import FakeGpu
from . import TRIPLES, WEIGHTS
from .session import Fake, load_extension

SIZES = (20_000, 1, 0, 9001, 333)


def spans(slot: Any, seed: int) -> list[Span]:
    """A span for each size, dtype triple and weight, in one slot, at any offset."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 256, 4 * max(SIZES) + 64, np.uint8) for _ in range(2))
    found, at = [], 1
    for i, (out, x, y) in enumerate(TRIPLES):
        for k, n in enumerate(SIZES):
            weight = float(np.float32(WEIGHTS[(i + k) % len(WEIGHTS)]))
            found.append(Span(slot, at, a, i, b, 3 * k, n, weight, out, x, y))
            at += n * CODE_SIZES[out]
    return found


def main() -> None:
    libcuda, extension = sys.argv[1:]
    fake = Fake(libcuda)
    load_extension(extension).prepare(0)
    fake.calls()
    host = torch.device("cpu")
    gpu = FakeGpu(launch=lambda block, launch: cuda.launch(host, launch.table(block), launch.triple))
    slots = [np.zeros(4 * sum(SIZES) * len(TRIPLES) + 1, np.uint8) for _ in range(2)]
    with gpu_runner.SpanRunner([gpu], 8 << 20, 1) as runner:
        runner.run_groups(spans(slots[0], 1), 1)
    cpu.run_groups(spans(slots[1], 1), 1, "scalar")
    launches = sorted(call.split("(")[1].split()[0] for call in fake.calls() if "Launch" in call)
    print(json.dumps({"equal": bool((slots[0] == slots[1]).all()), "launches": launches, "copies": gpu.copies}))


if __name__ == "__main__":
    main()
