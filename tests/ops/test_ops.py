"""mi_kernels.lerp and multi_lerp: what callers may bring, and the bits they get."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from mi_kernels import _cpu, lerp, multi_lerp
from mi_kernels.ops import linear

from ..support.bits import (
    BF16,
    F16,
    F32,
    FORMATS,
    Bits,
    Format,
    random_bits,
    special_pairs,
    to_bits,
    to_torch,
    torch_lerp,
)

# torch.lerp chooses its form by |w| < 0.5.


def numpy_array(fmt: Format, bits: Bits) -> np.ndarray:
    return bits.view({F32: np.float32, F16: np.float16, BF16: np.uint16}[fmt])


# The kinds of array a caller may bring: how to make one of bits, and how to get its bits back.
KINDS: dict[str, tuple[Format, Any, Any]] = {
    "numpy float32": (F32, lambda x: x.view(np.float32), lambda x: x.view(np.uint32)),
    "numpy float16": (F16, lambda x: x.view(np.float16), lambda x: x.view(np.uint16)),
    "numpy uint16": (BF16, lambda x: x, lambda x: x),
    "ml_dtypes bfloat16": (BF16, lambda x: x.view(ml_dtypes.bfloat16), lambda x: x.view(np.uint16)),
    "torch float32": (F32, lambda x: to_torch(F32, x), lambda x: x.view(torch.int32).numpy().view(np.uint32)),
    "torch float16": (F16, lambda x: to_torch(F16, x), lambda x: x.view(torch.int16).numpy().view(np.uint16)),
    "torch bfloat16": (BF16, lambda x: to_torch(BF16, x), lambda x: x.view(torch.int16).numpy().view(np.uint16)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Format, Any, Any]:
    return KINDS[request.param]


@pytest.fixture(params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("lam", [0, 0.0, 0.3, np.float32(0.8), 0.5, 1, -0.3, 1.7, -0.7])
def test_lerp(kind: Any, backend: str, lam: Any) -> None:
    fmt, make, bits_of = kind
    special_a, special_b = special_pairs(fmt, fmt)
    a_bits = np.concatenate([special_a, random_bits(fmt, 1000, 1)])
    b_bits = np.concatenate([special_b, random_bits(fmt, 1000, 2)])
    a, b = make(a_bits.copy()), make(b_bits.copy())
    got = lerp(a, b, lam, backend=backend)
    assert type(got) is type(a)
    assert got.dtype == a.dtype
    copied = {0: a_bits, 1: b_bits}
    want = copied[int(lam)] if lam in (0, 1) else torch_lerp(fmt, fmt, a_bits, fmt, b_bits, float(lam))
    np.testing.assert_array_equal(bits_of(got), want)
    np.testing.assert_array_equal(bits_of(a), a_bits)
    np.testing.assert_array_equal(bits_of(b), b_bits)


@pytest.mark.parametrize("into", ["new", "a", "b"])
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8, 1.0])
def test_lerp_into_out(kind: Any, backend: str, into: str, lam: float) -> None:
    fmt, make, bits_of = kind
    a_bits, b_bits = random_bits(fmt, 1001, 3), random_bits(fmt, 1001, 4)
    arrays = {"a": make(a_bits.copy()), "b": make(b_bits.copy()), "new": make(np.full(1001, 0xA5, fmt.uint))}
    out = arrays[into]
    assert lerp(arrays["a"], arrays["b"], lam, out, backend=backend) is out
    want = (b_bits if lam else a_bits) if lam in (0, 1) else torch_lerp(fmt, fmt, a_bits, fmt, b_bits, lam)
    np.testing.assert_array_equal(bits_of(out), want)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 5)])
def test_shapes(kind: Any, backend: str, shape: tuple[int, ...]) -> None:
    fmt, make, bits_of = kind
    n = int(np.prod(shape))
    a_bits, b_bits = random_bits(fmt, n, 5), random_bits(fmt, n, 6)
    got = lerp(make(a_bits).reshape(shape), make(b_bits).reshape(shape), 0.8, backend=backend)
    assert tuple(got.shape) == shape
    assert isinstance(got, (np.ndarray, torch.Tensor))
    np.testing.assert_array_equal(bits_of(got.reshape(-1)), torch_lerp(fmt, fmt, a_bits, fmt, b_bits, 0.8))


def test_views_with_offsets(kind: Any, backend: str) -> None:
    """Contiguous slices of larger arrays, each from another element on; what lies around the output stays."""
    fmt, make, bits_of = kind
    a_bits, b_bits = random_bits(fmt, 100, 7), random_bits(fmt, 100, 8)
    whole = make(np.full(100, 0x3C, fmt.uint))
    out = whole[3:73].reshape(7, 10)
    lerp(make(a_bits)[1:71].reshape(7, 10), make(b_bits)[2:72].reshape(7, 10), 0.3, out, backend=backend)
    got = bits_of(whole)
    np.testing.assert_array_equal(got[3:73], torch_lerp(fmt, fmt, a_bits[1:71], fmt, b_bits[2:72], 0.3))
    assert (got[:3] == 0x3C).all()
    assert (got[73:] == 0x3C).all()


@pytest.mark.parametrize("a_fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("b_fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("out_fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_mixed_dtypes(backend: str, out_fmt: Format, a_fmt: Format, b_fmt: Format, lam: float) -> None:
    a_bits, b_bits = special_pairs(a_fmt, b_fmt)
    out = numpy_array(out_fmt, np.zeros(a_bits.size, out_fmt.uint))
    lerp(numpy_array(a_fmt, a_bits), numpy_array(b_fmt, b_bits), lam, out, backend=backend)
    source, bits = (b_fmt, b_bits) if lam else (a_fmt, a_bits)
    if lam == 0.8:
        want = torch_lerp(out_fmt, a_fmt, a_bits, b_fmt, b_bits, lam)
    else:
        want = bits if source is out_fmt else to_bits(to_torch(source, bits).to(out_fmt.dtype), out_fmt)
    np.testing.assert_array_equal(out.view(out_fmt.uint), want)


def asked_for_huge_pages(tensor: torch.Tensor) -> bool:
    """Whether the mapping under the middle of a tensor has the advice, see proc(5) on smaps."""
    middle, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= middle < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError("the tensor is in no mapping")


def test_one_ordinary_pair_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "multi_lerp", lambda *_, **__: pytest.fail("the long way"))
    assert lerp(torch.zeros(3), torch.ones(3), 0.25).tolist() == [0.25] * 3


@pytest.mark.parametrize("count", [(4 << 20) // 2 - 1, (4 << 20) // 2 + 4099])
def test_large_results_made_on_huge_pages(count: int) -> None:
    a, b = (torch.randn(count, generator=torch.Generator().manual_seed(seed)).bfloat16() for seed in (1, 2))
    wanted = torch.lerp(a.float(), b.float(), 0.8).bfloat16()
    for got in (lerp(a, b, 0.8), multi_lerp([a, b], [b, b], 0.8)[0]):
        assert torch.equal(got, wanted)
    if got.nbytes >= 4 << 20 and os.path.exists("/sys/kernel/mm/transparent_hugepage"):
        assert asked_for_huge_pages(got)  # a smaller one may lie where another was before
    half = memoryview(bytearray(3 << 20))
    _cpu.prefer_huge_pages(np.frombuffer(half, np.uint8).ctypes.data + 1, 5000)  # wherever it lies: a wish
    assert not any(half)


def test_one_pair_keeps_a_subnormal_weight(flush_denormals: None) -> None:
    a, b = torch.zeros(1), torch.full((1,), 2.0**127)
    assert lerp(a, b, 1e-40).item() == pytest.approx(1e-40 * 2.0**127, rel=1e-4)


def test_the_result_has_the_dtype_and_kind_of_a() -> None:
    got = lerp(torch.ones(3, dtype=torch.bfloat16), np.full(3, 3, np.float32), 0.5)
    assert got.dtype == torch.bfloat16
    assert got.tolist() == [2, 2, 2]
    other = lerp(np.ones(3, np.float32), torch.full((3,), 3, dtype=torch.float16), 0.5)
    assert other.dtype == np.float32
    assert other.tolist() == [2, 2, 2]


def test_read_only_inputs_are_read() -> None:
    a, b = np.zeros(3, np.float32), np.ones(3, np.float32)
    a.flags.writeable = b.flags.writeable = False
    assert lerp(a, b, 0.25).tolist() == [0.25] * 3


def test_multi_lerp_of_many_tiny_and_some_huge(kind: Any) -> None:
    fmt, make, bits_of = kind
    sizes = [*[1, 0, 3, 17] * 50, 1_200_003, *[5] * 50, 300_000]
    a_bits = [random_bits(fmt, n, i) for i, n in enumerate(sizes)]
    b_bits = [random_bits(fmt, n, 1000 + i) for i, n in enumerate(sizes)]
    lams = [(0.3, 0.0, 0.8, 1.0, 1.7)[i % 5] for i in range(len(sizes))]
    got = multi_lerp([make(x) for x in a_bits], [make(x) for x in b_bits], lams, threads=3)
    for x, y, lam, result in zip(a_bits, b_bits, lams, got):
        want = (y if lam else x) if lam in (0, 1) else torch_lerp(fmt, fmt, x, fmt, y, lam)
        np.testing.assert_array_equal(bits_of(result), want)


def test_multi_lerp_writes_into_outs(backend: str) -> None:
    a, b = [np.zeros(2, np.float32), np.zeros((), np.float32)], [np.ones(2, np.float32), np.ones((), np.float32)]
    outs = (np.full(2, 9, np.float32), a[1])
    got = multi_lerp(a, b, 0.25, outs, backend=backend)
    assert isinstance(got, list)
    assert all(x is y for x, y in zip(got, outs))
    assert [x.tolist() for x in got] == [[0.25, 0.25], 0.25]


def test_multi_lerp_of_nothing(backend: str) -> None:
    assert multi_lerp([], [], 0.5, backend=backend) == []
    assert multi_lerp([], [], [], [], backend=backend) == []


def test_multi_lerp_may_share_inputs() -> None:
    shared = np.zeros(4, np.float32)
    got = multi_lerp([shared, shared], [np.ones(4, np.float32)] * 2, [0.25, 0.75])
    assert [x[0] for x in got] == [0.25, 0.75]


# What is loaded, and what works, in a fresh interpreter.


def python(program: str) -> None:
    """Runs `program` in a fresh interpreter, which must succeed."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_loads_neither_numpy_nor_torch() -> None:
    python("""
        import sys, mi_kernels
        loaded = {"numpy", "torch", "transformers", "triton"} & set(sys.modules)
        assert not loaded, loaded
    """)


def test_numpy_arrays_do_not_load_torch() -> None:
    python("""
        import sys, numpy as np, mi_kernels
        assert mi_kernels.lerp(np.zeros(3, np.float32), np.ones(3, np.float32), 0.25).tolist() == [0.25] * 3
        assert "torch" not in sys.modules
    """)


def test_numpy_arrays_do_not_need_torch() -> None:
    python("""
        import sys
        sys.modules["torch"] = sys.modules["ml_dtypes"] = None  # an import of either now fails
        import numpy as np, mi_kernels
        from mi_kernels import merge, cli
        a, b = np.full(3, 0x3F80, np.uint16), np.full(3, 0x4040, np.uint16)
        for backend in (None, "cpu", "reference"):
            assert mi_kernels.multi_lerp([a], [b], 0.5, [a.copy()], backend=backend)[0].tolist() == [0x4000] * 3
        try:
            mi_kernels.lerp([1.0], [2.0], 0.5)
        except mi_kernels.DTypeError as error:
            assert "a is a list" in str(error)
        else:
            raise SystemExit("a list was taken")
    """)


@pytest.mark.parametrize("out", ["None", "a"])
def test_the_reference_does_not_need_the_extension(out: str) -> None:
    python(f"""
        import sys
        sys.modules["mi_kernels._cpu"] = None  # an import of it now fails
        import numpy as np, mi_kernels
        a, b = np.zeros(3, np.float32), np.ones(3, np.float32)
        try:
            mi_kernels.lerp(a, b, 0.25)
        except mi_kernels.BackendError as error:
            assert "pip install" in error.remedy
        else:
            raise SystemExit("something else took its place")
        assert mi_kernels.lerp(a, b, 0.25, {out}, backend="reference").tolist() == [0.25] * 3
    """)


def test_many_tensors_keep_a_subnormal_weight(flush_denormals: None) -> None:
    """A list's weights are rounded to float32 in the kernels' own environment, not in the caller's."""
    a, b = [torch.zeros(4)] * 2, [torch.full((4,), 3e38)] * 2
    for got in multi_lerp(a, b, 1e-40):
        assert (got > 0.0299).all()
