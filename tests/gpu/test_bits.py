"""Every GPU backend against the CPU kernels, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mi_kernels
from mi_kernels.backends import triton as triton_backend

from .conftest import INTERPRETED
from .tensors import DTYPES, bits, placed, qwen3_30b_a3b_shapes, random_bits

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy's, of overflow to inf

# Around a step of the wide loop (1024) and of the narrow one (512), below 16 bytes, and a second chunk.
SIZES = [0, 1, 2, 7, 8, 9, 127, 511, 512, 513, 1023, 1024, 1025, 1536, 3001, triton_backend.CHUNK + 1031]
LAMS = [0.0, 1.0, 0.3, 0.5, 0.8, -0.5, -0.3, 1.7, 1e-40, 1e-60]  # 1e-40 is a subnormal float32, and 1e-60 is 0

MultiLerp = Callable[..., Any]


def expected(a: Any, b: Any, lam: float, dtype: Any = None) -> Any:
    out = torch.empty(a.shape, dtype=dtype or a.dtype)
    return mi_kernels.lerp(a.cpu(), b.cpu(), lam, out, backend="cpu")


def same(found: Any, wanted: Any) -> bool:
    return torch.equal(bits(found.cpu()), bits(wanted))


@pytest.mark.parametrize("name", DTYPES)
def test_all_sizes_in_one_call(multi_lerp: MultiLerp, device: Any, name: str) -> None:
    a = [random_bits(n, DTYPES[name], 2 * i) for i, n in enumerate(SIZES)]
    b = [random_bits(n, DTYPES[name], 2 * i + 1) for i, n in enumerate(SIZES)]
    lams = [LAMS[i % len(LAMS)] for i in range(len(SIZES))]
    outs = multi_lerp([placed(x, device) for x in a], [placed(x, device) for x in b], lams)
    for i, (x, y, out) in enumerate(zip(a, b, outs)):
        assert same(out, expected(x, y, lams[i])), f"{SIZES[i]} elements, lam {lams[i]}"


@pytest.mark.parametrize("name", DTYPES)
def test_unaligned_tensors(multi_lerp: MultiLerp, device: Any, name: str) -> None:
    """Views at every combination of a few offsets; the elements around an output stay as they were."""
    dtype, n = DTYPES[name], 1300
    a, b, guard = random_bits(n, dtype, 1), random_bits(n, dtype, 2), random_bits(n + 24, dtype, 3)
    offsets = list(itertools.product([0, 1, 8], repeat=3))
    outs, rooms = [], []
    for at, _, _ in offsets:
        rooms.append(placed(guard, device))
        outs.append(rooms[-1][at : at + n])
    multi_lerp([placed(a, device, o) for _, o, _ in offsets], [placed(b, device, o) for _, _, o in offsets], 0.8, outs)
    for (at, _, _), room in zip(offsets, rooms):
        whole = guard.clone()
        whole[at : at + n] = expected(a, b, 0.8)
        assert same(room, whole), f"out {at} elements past an aligned address"


@pytest.mark.parametrize("lam", LAMS)
def test_mixed_dtypes_in_one_call(multi_lerp: MultiLerp, device: Any, lam: float) -> None:
    triples = list(itertools.product(DTYPES.values(), repeat=3))
    a = [random_bits(1100, x, 5) for _, x, _ in triples]
    b = [random_bits(1100, y, 6) for _, _, y in triples]
    outs = [placed(random_bits(1100, o, 7), device) for o, _, _ in triples]
    multi_lerp([placed(x, device) for x in a], [placed(y, device) for y in b], lam, outs)
    for i, triple in enumerate(triples):
        assert same(outs[i], expected(a[i], b[i], lam, triple[0])), triple


@pytest.mark.parametrize("name", DTYPES)
def test_pairs_of_special_values(multi_lerp: MultiLerp, device: Any, name: str) -> None:
    dtype = DTYPES[name]
    info = torch.finfo(dtype)
    values = [0.0, -0.0, 1.0, -1.0, info.max, info.min, info.tiny, -info.tiny, info.smallest_normal / 2, info.eps]
    special = torch.tensor([*values, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    subnormal = bits(special.clone()[:1]).fill_(1).view(dtype)
    special = torch.cat([special, subnormal, -subnormal])
    pairs = torch.cartesian_prod(special, special)
    a, b = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
    for lam in LAMS:
        (out,) = multi_lerp([placed(a, device)], [placed(b, device)], lam)
        assert same(out, expected(a, b, lam)), lam


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("onto", ["a", "b"])
def test_in_place(multi_lerp: MultiLerp, device: Any, lam: float, onto: str) -> None:
    a, b = random_bits(2100, torch.bfloat16, 8), random_bits(2100, torch.bfloat16, 9)
    x, y = placed(a, device), placed(b, device)
    outs = [x if onto == "a" else y]
    multi_lerp([x], [y], lam, outs)
    assert same(outs[0], expected(a, b, lam))
    assert same(y if onto == "a" else x, b if onto == "a" else a)


def test_scalars_and_empty_lists(multi_lerp: MultiLerp, device: Any) -> None:
    a, b = torch.tensor(1.0), torch.tensor(2.0)
    (out,) = multi_lerp([a.to(device)], [b.to(device)], 0.25)
    assert out.shape == ()
    assert out.item() == 1.25
    assert multi_lerp([], [], 0.5) == []


def test_the_tensors_of_a_mixture_of_experts(multi_lerp: MultiLerp, device: Any) -> None:
    """Qwen3-30B-A3B's shapes; all 18,867 on a device, a few layers in the interpreter. One buffer holds each side."""
    shapes = qwen3_30b_a3b_shapes(1, 3, 32) if INTERPRETED else qwen3_30b_a3b_shapes(shrink=8)
    counts = [torch.Size(shape).numel() for shape in shapes]
    a, b = (random_bits(sum(counts), torch.bfloat16, seed, device) for seed in (10, 11))
    out = torch.empty_like(a)

    def cut(x: Any) -> list[Any]:
        return [part.view(shape) for part, shape in zip(x.split(counts), shapes)]

    multi_lerp(cut(a), cut(b), 0.8, cut(out))
    assert same(out, expected(a, b, 0.8))
