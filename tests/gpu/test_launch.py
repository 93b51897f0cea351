"""How launches behave: refusals, streams, CUDA graphs, several devices, tables that stay on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mi_kernels

from .tensors import bits, placed, random_bits

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy's, of overflow to inf

MultiLerp = Callable[..., Any]


def expected(a: Any, b: Any, lam: float) -> Any:
    return mi_kernels.lerp(a.cpu(), b.cpu(), lam, backend="cpu")


def same(found: Any, wanted: Any) -> bool:
    return torch.equal(bits(found.cpu()), bits(wanted))


def pairs(device: Any, seed: int = 0) -> tuple[list[Any], list[Any]]:
    sizes = [1, 1000, 40_000, 5]
    a = [placed(random_bits(n, torch.bfloat16, seed + 2 * i), device) for i, n in enumerate(sizes)]
    b = [placed(random_bits(n, torch.bfloat16, seed + 2 * i + 1), device) for i, n in enumerate(sizes)]
    return a, b


def test_the_same_call_again_sees_new_values(multi_lerp: MultiLerp, device: Any) -> None:
    """The table may be kept from the first call; what the tensors hold may not."""
    a, b = pairs(device)
    outs = [torch.empty_like(x) for x in a]
    multi_lerp(a, b, 0.3, outs)
    for x in (*a, *b):
        bits(x).add_(1)
    multi_lerp(a, b, 0.3, outs)
    assert all(same(out, expected(x, y, 0.3)) for x, y, out in zip(a, b, outs))
    multi_lerp(a, b, 0.4, outs)
    assert all(same(out, expected(x, y, 0.4)) for x, y, out in zip(a, b, outs))


def test_more_calls_than_cached_tables(multi_lerp: MultiLerp, device: Any) -> None:
    a, b = pairs(device)
    lams = [i / 20 for i in range(1, 20)]
    results = [multi_lerp(a, b, lam) for lam in lams]
    for lam, outs in zip(lams, results):
        assert same(outs[1], expected(a[1], b[1], lam)), lam


def test_refusals_name_the_argument(cuda: Any, backend: str) -> None:
    x = torch.zeros(4, 6, device=cuda)

    def refused(message: str, *args: Any) -> None:
        with pytest.raises(mi_kernels.MIKernelsError, match=message):
            mi_kernels.lerp(*args[:2], 0.5, *args[2:], backend=backend)

    refused("b is not contiguous", x, torch.zeros(6, 4, device=cuda).t())
    refused("out is not contiguous", x, x, torch.zeros(6, 4, device=cuda).t())
    refused("a requires grad", x.clone().requires_grad_(), x)
    refused("b is on cpu, a on cuda", x, x.cpu())
    refused("b is on cuda.*, a on cpu", x.cpu(), x)
    refused("b is a ndarray", x, x.cpu().numpy())
    refused("b has dtype torch.int32", x, x.int())
    refused("b has shape", x, x[:3])
    refused("out overlaps a without being it", x.view(-1)[:8], x.view(-1)[8:16], x.view(-1)[4:12])


def test_work_is_queued_on_the_current_stream(cuda: Any, multi_lerp: MultiLerp) -> None:
    """The inputs are written late, on the stream that is current for the call: only an ordered launch sees them."""
    a, b = pairs(cuda)
    late_a, late_b = [torch.empty_like(x) for x in a], [torch.empty_like(x) for x in b]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for late, x in zip((*late_a, *late_b), (*a, *b)):
            late.copy_(x)
        outs = multi_lerp(late_a, late_b, 0.8)
    stream.synchronize()
    assert all(same(out, expected(x, y, 0.8)) for x, y, out in zip(a, b, outs))


@pytest.mark.parametrize("known", [False, True])
def test_a_captured_launch_replays(cuda: Any, multi_lerp: MultiLerp, known: bool) -> None:
    """`known`: the call was made before, with the same memory. A graph sees what its inputs hold at each replay."""
    a, b = pairs(cuda)
    outs = [torch.empty_like(x) for x in a]
    multi_lerp(a, b, 0.8, outs)  # what is compiled on first use is compiled before the capture, as always with graphs
    lam = 0.8 if known else 0.7
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        multi_lerp(a, b, lam, outs)
        created = multi_lerp(a, b, 0.25)
    for seed in (100, 200):
        for x, fresh in zip((*a, *b), (y for side in pairs(cuda, seed) for y in side)):
            x.copy_(fresh)
        for i in range(30):  # pushes the captured tables out of whatever keeps recent ones
            multi_lerp(a, b, i / 31)
        graph.replay()
        torch.cuda.synchronize()
        assert all(same(out, expected(x, y, lam)) for x, y, out in zip(a, b, outs))
        assert all(same(out, expected(x, y, 0.25)) for x, y, out in zip(a, b, created))


def test_the_device_of_the_tensors_is_used(cuda: Any, multi_lerp: MultiLerp) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    for index in (1, 0):
        a, b = pairs(torch.device("cuda", index))
        outs = multi_lerp(a, b, 0.8)
        assert all(same(out, expected(x, y, 0.8)) for x, y, out in zip(a, b, outs))
        assert torch.cuda.current_device() == 0


def test_tensors_beyond_32_bits(cuda: Any, multi_lerp: MultiLerp) -> None:
    n = 2**31 + 4099
    if torch.cuda.mem_get_info()[0] < 16 * n:
        pytest.skip(f"needs {16 * n / 2**30:.0f} GiB of free device memory")
    a = torch.empty(n, dtype=torch.bfloat16, device=cuda)
    b = torch.empty_like(a)
    a[:4099], b[:4099] = random_bits(4099, a.dtype, 1).to(cuda), random_bits(4099, a.dtype, 2).to(cuda)
    for x in (a, b):
        x[4099:] = x[:4096].repeat(2**31 // 4096)
    (out,) = multi_lerp([a], [b], 0.8)
    assert same(out[:4099], expected(a[:4099], b[:4099], 0.8))
    period = out[4099 : 4099 + 4096]
    assert same(period, expected(a[:4096], b[:4096], 0.8))
    assert torch.equal(bits(out[4099:]).view(-1, 4096), bits(period).expand(2**31 // 4096, 4096))
