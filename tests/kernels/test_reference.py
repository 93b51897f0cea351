"""The NumPy reference against exact rational arithmetic and against torch: three ways to one answer."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mi_kernels.backends.reference import lerp as reference

from ..support.bits import BF16, F32, Bits, random_bits, special_pairs, specials, torch_lerp

# torch.lerp chooses its form by |w| < 0.5.
LAMS = [0.3, 0.5, 0.8, 0.5 - 1e-12, 1e-40, -0.3, 1.7, -0.5, -0.7]


def nearest_float32(exact: Fraction) -> np.float32:
    """`exact`, not zero, rounded to float32 to nearest even, by integers alone."""
    magnitude = abs(exact)
    # The unit in the last place: 24 significant bits, but never finer than the subnormals' 2^-149.
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    ulp = Fraction(2) ** max(exponent - 23, -149)
    units = round(magnitude / ulp)  # Python rounds a Fraction's halves to even
    sign = -1.0 if exact < 0 else 1.0
    if units * ulp >= Fraction(2) ** 128:
        return np.float32(sign * np.inf)
    return np.float32(sign * float(units * ulp))


def exact_fma(x: np.float32, y: np.float32, z: np.float32) -> np.float32:
    """x * y + z rounded once."""
    with np.errstate(all="ignore"):
        wide = np.float64(x) * np.float64(y) + np.float64(z)
    if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
        return np.float32(wide)  # inf or NaN or z's own inf: float64 has room for every product of float32
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    return np.float32(wide) if exact == 0 else nearest_float32(exact)  # an exact zero: only its sign is at stake


def same(got: np.float32, want: np.float32) -> bool:
    return bool(np.isnan(got) and np.isnan(want)) or got.view(np.uint32) == want.view(np.uint32)


def float32(bits: int) -> np.float32:
    return np.array(bits, np.uint32).view(np.float32)[()]


# Any bits are seldom close enough to interact: the second kind puts the addend within reach of the product.
ANY = st.integers(0, 2**32 - 1)
NEAR = st.builds(
    lambda s, e, m: s << 31 | e << 23 | m, st.integers(0, 1), st.integers(110, 144), st.integers(0, 2**23 - 1)
)
SMALL = st.builds(lambda s, m: s << 31 | m, st.integers(0, 1), st.integers(0, 0x01FFFFFF))


@settings(max_examples=2000)
@given(st.one_of(st.tuples(ANY, ANY, ANY), st.tuples(NEAR, NEAR, NEAR), st.tuples(NEAR, SMALL, SMALL)))
# 1 + 2^-23 + 2^-24 - 2^-70: float64 to nearest would lose the last term, and make of it a tie that goes up.
@example((0x33800001, 0x3F7FFFFE, 0x3F800001))
@example((0x33800000, 0x3F800001, 0x3F800000))  # just above half a unit of 1
@example((0x33800000, 0x3F7FFFFF, 0x3F800000))  # just below
@example((0x33800000, 0x3F800000, 0x3F800000))  # the tie, down to even
@example((0x33800000, 0x3F800000, 0x3F800001))  # the tie, up to even
@example((0x80000000, 0x3F800000, 0x80000000))  # -0 + -0
@example((0x3F800000, 0x3F800000, 0xBF800000))  # 1 - 1 is +0
@example((0x3F000000, 0x00000001, 0x00000000))  # half of the smallest subnormal, to even: 0
@example((0x3F000000, 0x00000003, 0x00000000))  # one and a half: 2
@example((0x7F7FFFFF, 0x3F800001, 0x00000000))  # overflow
@example((0x7F800000, 0x3F800000, 0xFF800000))  # inf - inf
def test_fma_rounds_once(bits: tuple[int, int, int]) -> None:
    x, y, z = (float32(b) for b in bits)
    got = reference.fma(x, np.array([y]), np.array([z]))[0]
    want = exact_fma(x, y, z)
    assert same(got, want), f"fma({x!r}, {y!r}, {z!r}): got {got!r}, want {want!r}"


def test_the_oracle_rounds_as_numpy_does() -> None:
    """`nearest_float32` against NumPy's own float64 -> float32, on values between float32's neighbours."""
    rng = np.random.default_rng(0)
    scale = np.ldexp(1.0, rng.integers(-160, 129, 2000))
    values = rng.standard_normal(2000) * scale
    low = np.array([1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-150, 3 * 2.0**-150, 2.0**128 - 2.0**103, 2.0**128 - 2.0**102])
    for value in [*values, *low, *-low]:
        with np.errstate(all="ignore"):
            want = np.float32(value)
        assert same(nearest_float32(Fraction(value)), want), value


def canonical(values: reference.Float32) -> Bits:
    return np.where(np.isnan(values), np.uint32(F32.nan), values.view(np.uint32))


@pytest.mark.parametrize("lam", LAMS)
def test_float32_equals_torch(lam: float) -> None:
    special_a, special_b = special_pairs(F32, F32)
    a = np.concatenate([special_a, random_bits(F32, 200_000, 1)])
    b = np.concatenate([special_b, random_bits(F32, 200_000, 2)])
    got = canonical(reference.lerp_float32(a.view(np.float32), b.view(np.float32), lam))
    np.testing.assert_array_equal(got, torch_lerp(F32, F32, a, F32, b, lam))


@pytest.mark.parametrize("lam", LAMS)
def test_bf16_equals_torch(lam: float) -> None:
    special_a, special_b = special_pairs(BF16, BF16)
    a = np.concatenate([special_a, random_bits(BF16, 200_000, 3)])
    b = np.concatenate([special_b, random_bits(BF16, 200_000, 4)])
    np.testing.assert_array_equal(reference.lerp_bf16(a, b, lam), torch_lerp(BF16, BF16, a, BF16, b, lam))


@pytest.mark.parametrize("lam", [0.0, 1.0, 1e-60, 1 - 1e-12])
def test_bf16_copies_at_0_and_1(lam: float) -> None:
    a, b = special_pairs(BF16, BF16)
    got, source = reference.lerp_bf16(a, b, lam), b if lam > 0.5 else a
    np.testing.assert_array_equal(got, source)
    assert not np.shares_memory(got, source)


def test_narrowing_to_bf16_equals_torch_around_every_rounding_boundary() -> None:
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (high | np.uint32(low)).view(np.float32)
        want = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        want = np.where(np.isnan(values), np.uint16(BF16.nan), want)
        np.testing.assert_array_equal(reference.float32_to_bf16(values), want)


def test_widening_and_narrowing_return_every_bf16_value() -> None:
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    wide = reference.bf16_to_float32(bits)
    np.testing.assert_array_equal(reference.float32_to_bf16(wide), np.where(np.isnan(wide), np.uint16(BF16.nan), bits))


def test_arrays_may_have_any_shape() -> None:
    a, b = specials(BF16).reshape(2, -1), specials(BF16)[::-1].reshape(2, -1)
    flat = reference.lerp_bf16(a.ravel(), b.ravel(), 0.8)
    np.testing.assert_array_equal(reference.lerp_bf16(a, b, 0.8), flat.reshape(a.shape))
