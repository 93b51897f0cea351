"""Checkpoints through a GPU: the CPU's bytes, on every backend. In the interpreter, spans through a made-up device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mi_kernels
from mi_kernels.backends import cpu
from mi_kernels.backends.gpu_runner import CudaGpu, SpanRunner
from mi_kernels.backends.piece import Launch
from mi_kernels.backends.spans import Span
from mi_kernels.methods.registry import METHODS

from ..support.fake_gpu import FakeGpu
from ..support.methods import Case, drawn_cases, recipe
from ..support.models import random_bits, save
from .conftest import INTERPRETED

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy's, of overflow to inf

LAMS = (0.0, 1.0, 0.3, 0.8)
GROUPS = [(1, (0, 0, 0)), (7001, (0, 0, 0)), (300, (2, 1, 0)), (0, (0, 0, 0)), (2050, (1, 1, 1)), (900, (2, 2, 2))]


@pytest.mark.parametrize("lams", [(0.8,), LAMS])
def test_spans_have_the_cpus_bits(backend: str, device: Any, lams: tuple[float, ...]) -> None:
    """Several pieces, tiny and empty spans, mixed dtypes, groups; twice, so that blocks are used again."""
    if not INTERPRETED and backend == "reference":
        pytest.skip("the reference does not stream")

    def on_triton(block: torch.Tensor, launch: Launch) -> None:
        from mi_kernels.backends import triton

        triton.launch(block.device, launch.table(block), launch.triple)

    launch = on_triton if backend == "triton" else None
    gpu: Any = FakeGpu(launch=launch) if INTERPRETED else CudaGpu("cuda:0", backend)
    total = sum(n * 4 + 16 for n, _ in GROUPS)
    a, b = (random_bits((total,), torch.uint8, seed).numpy() for seed in (1, 2))
    with SpanRunner([gpu], 1 << 15, 1) as runner:
        for _ in range(2):
            results = []
            for run in (runner.run_groups, lambda spans, group: cpu.run_groups(spans, 1, "scalar")):
                slots = [bytearray(total) for _ in lams]
                spans, at = [], 1
                for n, (out, x, y) in GROUPS:
                    for slot, lam in zip(slots, lams):
                        spans.append(Span(slot, at, b if lam == 1 else a, at, a if lam == 0 else b, at, n, lam, out,
                                          y if lam == 1 else x, x if lam == 0 else y))  # fmt: skip
                    at += n * 4 + 3
                run(spans, len(lams))
                results.append(slots)
            assert results[0] == results[1]


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_merge_on_the_device_has_the_cpus_bytes(tmp_path: Path, cuda: Any, backend: str, dtype: str | None) -> None:
    if backend == "reference":
        pytest.skip("the reference does not stream")
    for seed, name in ((1, "instruct"), (2, "thinking")):
        shapes: dict[str, tuple[int, ...]] = {"lm_head.weight": (3001, 1025), "model.norm.weight": (7,)}
        shapes |= {f"model.layers.{i}.mlp.experts.{j}.weight": (33, 65) for i in range(3) for j in range(40)}
        tensors = {
            t: random_bits(shape, torch.bfloat16, seed * 1000 + i) for i, (t, shape) in enumerate(shapes.items())
        }
        save(tmp_path / name, tensors, shards=2)
    every = ",".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    found = []
    for device in ("cpu", every):
        out = tmp_path / device.split(":")[0]
        options: dict[str, Any] = {"backend": None if device == "cpu" else backend, "dtype": dtype, "progress": False}
        report = mi_kernels.lerp_checkpoint(
            tmp_path / "instruct", tmp_path / "thinking", out, 0.8, device=device, **options
        )
        assert report.device == device
        found.append({path.name: path.read_bytes() for path in out.glob("*.safetensors")})
    assert found[0] == found[1]


@pytest.mark.parametrize("case", drawn_cases(2).values(), ids=list(drawn_cases(2)))
def test_every_method_on_the_device_has_the_cpus_bytes(tmp_path: Path, cuda: Any, backend: str, case: Case) -> None:
    if backend == "reference" or (backend == "triton" and not METHODS[case[0]].weighted_sum):
        pytest.skip(f"{backend} does not run {case[0]} on files")
    folders = []
    for seed in range(case[1] + case[2]):
        generator = torch.Generator().manual_seed(seed)
        shapes: dict[str, tuple[int, ...]] = {"lm_head.weight": (1301, 1025), "model.norm.weight": (7,)}
        tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
        folders.append(str(save(tmp_path / f"m{seed}", tensors)))
    found = []
    for where in ("cpu", "cuda"):
        options: dict[str, Any] = {"backend": None if where == "cpu" else backend, "progress": False}
        mi_kernels.merge_checkpoint(recipe(case, folders), tmp_path / where, device=where, **options)
        found.append({path.name: path.read_bytes() for path in (tmp_path / where).glob("*.safetensors")})
    assert found[0] == found[1]
