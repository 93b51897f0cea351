"""Moments and ranks of whole tensors: the same bits on every ISA, and right."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import _cpu
from mi_kernels.backends.cpu import ISA_VARIABLE
from mi_kernels.backends.moments import Moments
from mi_kernels.methods import statistics
from mi_kernels.methods.statistics import Reader, in_parallel, kth_largest_difference, moments, pieces

from ..support.bits import BF16, F16, F32, FORMATS, Bits, Format, random_bits, specials, to_torch
from ..support.formulas import moderate_bits

by_format = pytest.mark.parametrize("fmt", FORMATS, ids=[f.name for f in FORMATS])


def reader(fmt: Format, bits: Bits) -> Reader:
    return lambda first, count: (bits, first * bits.itemsize, fmt.code)


def wide(fmt: Format, bits: Bits) -> np.ndarray:
    return to_torch(fmt, bits).float().numpy()


def kernel(isa: str, fmt: Format, a: Bits, b: Bits, base: Bits | None = None) -> Moments:
    operands: list[Any] = [None if x is None else (x, 0, fmt.code) for x in (a, b, base)]
    return Moments._make(_cpu.moments(*operands, a.size, isa))


def exact(a: np.ndarray, b: np.ndarray) -> list[Fraction]:
    x, y = ([Fraction(float(v)) for v in z] for z in (a, b))
    sums = [sum(map(abs, x)), sum(map(abs, y)), sum(abs(q - p) for p, q in zip(x, y))]
    sums += [sum(p * p for p in x), sum(q * q for q in y), sum(p * q for p, q in zip(x, y))]
    return [Fraction(s) for s in sums]


@by_format
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 1023, 1024, 1025, 3000])
def test_moments_are_right(isa: str, fmt: Format, n: int) -> None:
    a, b = moderate_bits(fmt, n, 1), moderate_bits(fmt, n, 2)
    b[::3] = a[::3]
    found, x, y = kernel(isa, fmt, a, b), wide(fmt, a), wide(fmt, b)
    for value, want in zip(found[:6], exact(x, y)):
        # n additions in float64, each of a relative error of 2^-53 of a sum of magnitudes no larger than the squares'.
        bound = n * 2.0**-53 * max(map(float, exact(np.abs(x), np.abs(y)))) * 2
        assert abs(Fraction(value) - want) <= bound
    assert found.unequal == (x != y).sum()
    differences = np.abs(y.astype(np.float64) - x.astype(np.float64))
    assert found.largest == differences.max(initial=0)


@by_format
def test_moments_are_exact_where_sums_are(isa: str, fmt: Format) -> None:
    """Small whole numbers: nothing rounds, so no order can matter."""
    rng = np.random.default_rng(3)
    x, y, z = (rng.integers(-9, 10, 5001).astype(np.float32) for _ in range(3))
    bits = [torch.from_numpy(v).to(fmt.dtype).view(torch.int32 if fmt is F32 else torch.int16) for v in (x, y, z)]
    a, b, base = (v.numpy().view(fmt.uint) for v in bits)
    for shift, found in ((0, kernel(isa, fmt, a, b)), (z, kernel(isa, fmt, a, b, base))):
        p, q = x - shift, y - shift
        sums = [abs(p).sum(), abs(q).sum(), abs(q - p).sum(), (p * p).sum(), (q * q).sum(), (p * q).sum()]
        assert list(found) == [*map(float, sums), float((p != q).sum()), float(abs(q - p).max())]


@pytest.mark.parametrize(
    "formats", list(itertools.product(FORMATS, repeat=3)), ids=lambda t: "-".join(f.name for f in t)
)
def test_every_isa_gives_the_same_moments(isa: str, formats: tuple[Format, ...]) -> None:
    """Of random bits too: NaN and inf on one ISA are NaN and inf on the others."""
    for make, n in itertools.product((moderate_bits, random_bits), (1, 1500, 5001)):
        operands = [(make(fmt, n, k), 0, fmt.code) for k, fmt in enumerate(formats)]
        for base in (None, operands[2]):
            mine = np.array(_cpu.moments(operands[0], operands[1], base, n, isa))
            oracle = np.array(_cpu.moments(operands[0], operands[1], base, n, "scalar"))
            # NaN has one meaning and many bits.
            np.testing.assert_array_equal(mine, oracle)
            finite = np.isfinite(oracle)
            assert (mine[finite].view(np.uint64) == oracle[finite].view(np.uint64)).all()


@by_format
def test_differences_from_a_base_are_rounded_to_float32(isa: str, fmt: Format) -> None:
    a, b, base = (moderate_bits(fmt, 3000, k) for k in range(3))
    p, q = wide(fmt, a) - wide(fmt, base), wide(fmt, b) - wide(fmt, base)
    assert kernel(isa, fmt, a, b, base) == kernel(isa, F32, p.view(np.uint32), q.view(np.uint32))


def test_moments_at_any_offset(isa: str) -> None:
    a, b = moderate_bits(BF16, 1001, 1), moderate_bits(BF16, 1001, 2)
    want = _cpu.moments((a, 0, 0), (b, 0, 0), None, 1001, isa)
    for shift in (1, 2, 31):
        buffers = [np.concatenate([np.zeros(shift, np.uint8), x.view(np.uint8)]) for x in (a, b)]
        assert _cpu.moments((buffers[0], shift, 0), (buffers[1], shift, 0), None, 1001, isa) == want


def test_moments_of_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces' sums are added exactly, whatever order they come in."""
    monkeypatch.setattr(statistics, "PIECE", 1000)
    a, b = moderate_bits(BF16, 10_500, 1), moderate_bits(BF16, 10_500, 2)
    assert list(pieces(2500)) == [(0, 1000), (1000, 1000), (2000, 500)]
    found = moments(reader(BF16, a), reader(BF16, b), None, a.size)
    parts = [kernel("scalar", BF16, a[i : i + 1000], b[i : i + 1000]) for i in range(0, 10_500, 1000)]
    for i in range(7):
        assert found[i] == math.fsum(p[i] for p in reversed(parts))
    assert found.largest == max(p.largest for p in parts)
    assert moments(reader(BF16, a), reader(BF16, b), None, 0) == Moments(*[0.0] * 8)


def test_cosine() -> None:
    x = moderate_bits(F32, 5000, 1)
    minus, zero = x ^ np.uint32(1 << 31), np.zeros_like(x)
    for other, want in ((x, 1.0), (minus, -1.0), (zero, 0.0)):
        assert moments(reader(F32, x), reader(F32, other), None, 5000).cosine == pytest.approx(want, abs=2.0**-50)
    assert abs(moments(reader(F32, x), reader(F32, x), None, 5000).cosine) <= 1
    y = moderate_bits(F32, 5000, 2)
    p, q = wide(F32, x).astype(np.float64), wide(F32, y).astype(np.float64)
    want = float(p @ q / np.linalg.norm(p) / np.linalg.norm(q))
    # 5,000 additions in float64 on each side.
    assert moments(reader(F32, x), reader(F32, y), None, 5000).cosine == pytest.approx(want, abs=5000 * 2.0**-52)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_angle_with_nan_or_inf(bad: float) -> None:
    x = moderate_bits(F32, 100, 1)
    y = x.copy()
    y[7] = np.float32(bad).view(np.uint32)
    for one, other in ((x, y), (y, x), (y, y)):
        assert math.isnan(moments(reader(F32, one), reader(F32, other), None, 100).cosine)


def rank(x: np.ndarray, base: np.ndarray, k: int) -> np.uint32:
    """The k-th largest magnitude by sorting, as bits: NaN above inf."""
    with np.errstate(all="ignore"):
        magnitudes = (x - base).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return np.partition(magnitudes, magnitudes.size - k)[magnitudes.size - k]


def data(case: str, n: int) -> tuple[Format, Bits, Bits]:
    if case == "random_bits":
        return BF16, random_bits(BF16, n, 1), random_bits(BF16, n, 2)
    if case == "float32_bits":
        return F32, random_bits(F32, n, 1), random_bits(F32, n, 2)
    if case == "moderate":
        return F16, moderate_bits(F16, n, 1), moderate_bits(F16, n, 2)
    if case == "tied":
        choice = np.random.default_rng(1).choice(specials(BF16), (2, n)).astype(np.uint16)
        return BF16, choice[0], choice[1]
    if case == "constant":
        return BF16, np.full(n, 0x3F80, np.uint16), np.full(n, 0x4000, np.uint16)
    if case == "equal":
        return BF16, np.full(n, 0x3F80, np.uint16), np.full(n, 0x3F80, np.uint16)
    half = np.where(np.arange(n) % 2, np.uint16(0x7FC0), moderate_bits(BF16, n, 1))
    return BF16, half.astype(np.uint16), moderate_bits(BF16, n, 2)


CASES = ("random_bits", "float32_bits", "moderate", "tied", "constant", "equal", "half_nan")


@pytest.mark.parametrize("case", CASES)
def test_any_rank(isa: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, isa)
    n = 5000
    fmt, x, base = data(case, n)
    for k in (1, 2, 3, 17, n // 5, n // 2, n - 1, n):
        found = kth_largest_difference(reader(fmt, x), reader(fmt, base), n, k)
        want = rank(wide(fmt, x), wide(fmt, base), k).view(np.float32)
        assert found == want or (np.isnan(found) and np.isnan(want)), (case, k)


@given(seed=st.integers(0, 1000), n=st.integers(1, 200), fraction=st.floats(0, 1), fmt=st.sampled_from(FORMATS))
def test_any_rank_of_any_bits(seed: int, n: int, fraction: float, fmt: Format) -> None:
    x, base = random_bits(fmt, n, seed), random_bits(fmt, n, seed + 1)
    k = 1 + int(fraction * (n - 1))
    found = kth_largest_difference(reader(fmt, x), reader(fmt, base), n, k)
    want = rank(wide(fmt, x), wide(fmt, base), k).view(np.float32)
    assert found == want or (np.isnan(found) and np.isnan(want))


def test_rank_of_mixed_dtypes() -> None:
    x, base = moderate_bits(F16, 3000, 1), moderate_bits(BF16, 3000, 2)
    found = kth_largest_difference(reader(F16, x), reader(BF16, base), 3000, 600)
    assert found == rank(wide(F16, x), wide(BF16, base), 600).view(np.float32)


@pytest.mark.parametrize("piece", [1, 100, 1024, 4999, 1 << 20])
def test_rank_does_not_depend_on_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, x, base = data("moderate", 5000)
    want = rank(wide(fmt, x), wide(fmt, base), 1000).view(np.float32)
    monkeypatch.setattr(statistics, "PIECE", piece)
    assert kth_largest_difference(reader(fmt, x), reader(fmt, base), 5000, 1000) == want


@pytest.fixture(params=["bracket", "counting"])
def small_samples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of 256 elements in runs of 16, so that small tensors are sampled too; or none that is ever right."""
    monkeypatch.setattr(statistics, "_SAMPLE", 256)
    monkeypatch.setattr(statistics, "_RUN", 16)
    if request.param == "counting":
        monkeypatch.setattr(statistics, "_bracket", lambda *_: (1, 0))


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("case", CASES)
def test_any_rank_by_either_way(isa: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, isa)
    monkeypatch.setattr(statistics, "PIECE", 1500)
    n = 6001
    fmt, x, base = data(case, n)
    for k in (1, 2, n // 50, n // 5, n // 2, n - 1, n):
        found = kth_largest_difference(reader(fmt, x), reader(fmt, base), n, k)
        want = rank(wide(fmt, x), wide(fmt, base), k).view(np.float32)
        assert found == want or (np.isnan(found) and np.isnan(want)), (case, k)


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("order", ["ascending", "descending", "hidden"])
def test_a_sample_that_misleads(order: str) -> None:
    """Values in order, and values that stand only where no run of the sample looks."""
    n = 20_000
    x = np.sort(np.abs(wide(F32, moderate_bits(F32, n, 1))))
    if order == "descending":
        x = x[::-1].copy()
    if order == "hidden":
        x = np.full(n, 1.0, np.float32)
        for first in np.linspace(0, n - 16, 16)[:-1].astype(int):
            x[first + 100 : first + 900] = np.linspace(2, 3, 800, dtype=np.float32)
    zero = np.zeros_like(x)
    operands = reader(F32, x.view(np.uint32)), reader(F32, zero.view(np.uint32))
    for k in (1, n // 5, n // 2, n // 2 + 3000, n - 7, n):
        assert kth_largest_difference(*operands, n, k) == rank(x, zero, k).view(np.float32)


@pytest.mark.parametrize("case", ["moderate", "float32_bits", "equal"])
def test_any_rank_of_a_large_tensor(case: str) -> None:
    n = 300_001
    fmt, x, base = data(case, n)
    for k in (1, n // 5, n):
        found = kth_largest_difference(reader(fmt, x), reader(fmt, base), n, k)
        want = rank(wide(fmt, x), wide(fmt, base), k).view(np.float32)
        assert found == want or (np.isnan(found) and np.isnan(want)), (case, k)


def test_select_writes_no_more_than_it_has_room_for(isa: str) -> None:
    x, base = moderate_bits(F32, 5001, 1), np.zeros(5001, np.uint32)
    magnitudes = x & np.uint32(0x7FFFFFFF)
    low, high = (int(v) for v in np.sort(magnitudes)[[1000, 3000]])
    within = magnitudes[(magnitudes >= low) & (magnitudes <= high)]
    for room, at in ((5001, 0), (2001, 0), (2101, 100), (2000, 0), (7, 3), (5, 5), (0, 0)):
        found = np.full(room + 16, 0xA5A5A5A5, np.uint32)
        count = _cpu.select((x, 0, 2), (base, 0, 2), 5001, low, high, found[:room], at, isa)
        assert count == ((magnitudes > high).sum(), within.size)
        kept = min(within.size, room - at)
        np.testing.assert_array_equal(found[at : at + kept], within[:kept])
        assert (found[:at] == 0xA5A5A5A5).all()
        assert (found[room:] == 0xA5A5A5A5).all()
    with pytest.raises(ValueError, match="beyond"):
        _cpu.select((x, 0, 2), (base, 0, 2), 5001, low, high, np.zeros(3, np.uint32), 4, isa)


def test_histograms_count_every_element(isa: str) -> None:
    x, base = random_bits(F32, 5001, 1), random_bits(F32, 5001, 2)
    high = np.zeros(1 << 16, np.uint64)
    for _ in range(2):  # they add up
        _cpu.histogram((x, 0, 2), (base, 0, 2), 5001, high, None, isa)
    with np.errstate(all="ignore"):
        magnitudes = (wide(F32, x) - wide(F32, base)).view(np.uint32) & np.uint32(0x7FFFFFFF)
    # Which NaN a difference is depends on the processor: all count as larger than inf.
    nan = magnitudes > 0x7F800000
    want = np.bincount(magnitudes[~nan] >> 15, minlength=1 << 16)
    top = 0x7F800000 >> 15
    np.testing.assert_array_equal(high[:top], 2 * want[:top])
    assert high[top:].sum() == 2 * (want[top:].sum() + nan.sum())
    fullest = int(want[:top].argmax())
    low = np.zeros(1 << 15, np.uint64)
    _cpu.histogram((x, 0, 2), (base, 0, 2), 5001, low, fullest, isa)
    inside = magnitudes[(magnitudes >> 15 == fullest) & ~nan] & 0x7FFF
    np.testing.assert_array_equal(low, np.bincount(inside, minlength=1 << 15))


@pytest.mark.usefixtures("flush_denormals")
def test_flush_to_zero_of_the_caller_changes_nothing(isa: str) -> None:
    """1e-40 apart is not equal, and 1e-40 is a magnitude."""
    x, base = np.full(40, 3, np.uint16), np.full(40, 1, np.uint16)
    assert kernel(isa, BF16, x, base).unequal == 40
    high = np.zeros(1 << 16, np.uint64)
    _cpu.histogram((x, 0, 0), (base, 0, 0), 40, high, None, isa)
    assert high[0] == 0


def test_what_the_binding_refuses(isa: str) -> None:
    x = np.zeros(8, np.uint16)
    with pytest.raises(ValueError, match="beyond"):
        _cpu.moments((x, 0, 0), (x, 2, 0), None, 8, isa)
    with pytest.raises(ValueError, match="beyond"):
        _cpu.histogram((x, 0, 0), (x, 0, 0), 8, np.zeros((1 << 16) - 1, np.uint64), None, isa)
    with pytest.raises(ValueError, match="copied"):
        _cpu.moments((x, 0, 3), (x, 0, 0), None, 8, isa)


@pytest.mark.parametrize("threads", [1, 3])
def test_in_parallel_runs_everything(threads: int) -> None:
    done: list[int] = []
    in_parallel([lambda i=i: done.append(i) for i in range(50)], threads)  # type: ignore[misc]
    assert sorted(done) == list(range(50))
    in_parallel([], threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_in_parallel_raises_the_failure_and_stops(threads: int) -> None:
    done: list[int] = []

    def fail() -> None:
        raise KeyError("the one")

    with pytest.raises(KeyError, match="the one"):
        in_parallel([fail, *(lambda i=i: done.append(i) for i in range(10_000))], threads)  # type: ignore[misc]
    assert len(done) < 10_000
