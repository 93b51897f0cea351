"""The kernels over K models, called directly: every ISA gives the bits of the reference for every formula."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import _cpu
from mi_kernels._cpu import Formula
from mi_kernels.backends.reference import methods as reference
from mi_kernels.methods.weights import affine_weights

from ..support.bits import BF16, F16, F32, FORMATS, Format, random_bits, special_pairs, to_torch, torch_lerp
from ..support.formulas import assert_same, combine, expected, inputs, moderate_bits, random_formula, takes

AFFINE, SUM, TASK, TIES, DARE = Formula.AFFINE, Formula.SUM, Formula.TASK, Formula.TIES, Formula.DARE
by_format = pytest.mark.parametrize("fmt", FORMATS, ids=[f.name for f in FORMATS])
by_kind = pytest.mark.parametrize("kind", Formula, ids=lambda kind: kind.name.lower())


def check(isa: str, out: Format, formula: dict[str, Any], formats: list[Format], x: list[Any], **options: Any) -> None:
    want = expected(out, formula, formats, x, options.get("first", 0))
    assert_same(combine(isa, out, formula, formats, x, **options), want, x, formula)


@by_format
@by_kind
@pytest.mark.parametrize("models", [2, 3, 4, 7, 16])
def test_every_isa_equals_the_reference(isa: str, fmt: Format, kind: Formula, models: int) -> None:
    for seed in range(4):
        x = inputs([fmt] * models, 3000, 100 * models + seed)
        check(isa, fmt, random_formula(kind, models, seed), [fmt] * models, x, first=seed)


@by_format
@pytest.mark.parametrize("kind", [AFFINE, SUM], ids=["affine", "sum"])
def test_one_model(isa: str, fmt: Format, kind: Formula) -> None:
    x = inputs([fmt], 1000, 1)
    check(isa, fmt, {"formula": kind, "weights": [1.0]}, [fmt], x)
    check(isa, fmt, {"formula": SUM, "weights": [-0.3]}, [fmt], x)


@by_kind
def test_special_values_were_reached(kind: Formula) -> None:
    """The values above reach all special cases: NaN from numbers, overflow, subnormals, and zeros of both signs."""
    found: set[str] = set()
    for seed, fmt in itertools.product(range(4), FORMATS):
        x = inputs([fmt] * 3, 3000, 300 + seed)
        bits = expected(fmt, random_formula(kind, 3, seed), [fmt] * 3, x, seed)
        result = to_torch(fmt, bits).float().numpy()
        wide = np.array([to_torch(fmt, b).float().numpy() for b in x])
        tiny = np.float32(2.0 ** (-14 if fmt is F16 else -126))
        cases = {
            "nan": np.isnan(result) & ~np.isnan(wide).any(axis=0),
            "overflow": np.isinf(result) & np.isfinite(wide).all(axis=0),
            "subnormal": (result != 0) & (np.abs(result) < tiny),
            "-0": (result == 0) & np.signbit(result),
            "+0": (result == 0) & ~np.signbit(result),
        }
        found |= {name for name, where in cases.items() if where.any()}
    assert found == {"nan", "overflow", "subnormal", "-0", "+0"}


@by_kind
@pytest.mark.parametrize("out", FORMATS, ids=[f.name for f in FORMATS])
@pytest.mark.parametrize(
    "formats", list(itertools.product(FORMATS, repeat=3)), ids=lambda t: "-".join(f.name for f in t)
)
def test_mixed_dtypes(isa: str, kind: Formula, out: Format, formats: tuple[Format, ...]) -> None:
    # More than one block of 1,024 of the conversion, and a tail.
    check(isa, out, random_formula(kind, 3, 5), list(formats), inputs(formats, 1500, 7), first=11)


SIZES = (0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 65, 1023, 1024, 1025)


@by_format
@by_kind
def test_sizes_and_unaligned_slices(isa: str, fmt: Format, kind: Formula) -> None:
    item = np.dtype(fmt.uint).itemsize
    formula = random_formula(kind, 3, 2)
    pools = inputs([fmt] * 3, max(SIZES), 8)
    want = expected(fmt, formula, [fmt] * 3, pools)
    for n, shift in itertools.product(SIZES, (0, 1, item, 3 * item + 1, 61)):
        operands = []
        for k, pool in enumerate(pools):
            buffer = np.zeros(n * item + 64, np.uint8)
            at = (shift + k) % 64
            buffer[at : at + n * item] = pool[:n].view(np.uint8)
            operands.append((buffer, at, fmt.code))
        out = np.full(n * item + 64, 0xA5, np.uint8)
        _cpu.combine_spans([(out, shift, fmt.code, operands, n, 0, formula)], isa)
        assert_same(out[shift : shift + n * item].copy().view(fmt.uint), want[:n], pools, formula)
        assert (out[:shift] == 0xA5).all()
        assert (out[shift + n * item :] == 0xA5).all()


@by_format
@by_kind
@pytest.mark.parametrize("into", [0, 1, 2])
def test_in_place(isa: str, fmt: Format, kind: Formula, into: int) -> None:
    formula, x = random_formula(kind, 3, 3), inputs([fmt] * 3, 5001, 9)
    want = expected(fmt, formula, [fmt] * 3, x)
    mine = [bits.copy() for bits in x]
    operands = [(bits, 0, fmt.code) for bits in mine]
    _cpu.combine_spans([(mine[into], 0, fmt.code, operands, 5001, 0, formula)], isa)
    assert_same(mine[into], want, x, formula)


def test_in_place_with_another_dtype_of_the_same_size(isa: str) -> None:
    formats = [F16, BF16, BF16]
    for kind in Formula:
        formula, x = random_formula(kind, 3, 3), inputs(formats, 5001, 9)
        want = expected(BF16, formula, formats, x)
        mine = [bits.copy() for bits in x]
        operands = [(bits, 0, fmt.code) for bits, fmt in zip(mine, formats)]
        _cpu.combine_spans([(mine[0], 0, BF16.code, operands, 5001, 0, formula)], isa)
        assert_same(mine[0], want, x, formula)


# Threads start at 2^20 elements and take 2^18 at a time; the last task is then three elements long.
@by_kind
def test_several_threads(isa: str, kind: Formula) -> None:
    formula, n = random_formula(kind, 3, 4), (1 << 20) + 3
    x = [moderate_bits(BF16, n, k) for k in range(3)]
    one = combine(isa, BF16, formula, [BF16] * 3, x, first=5)
    assert_same(combine(isa, BF16, formula, [BF16] * 3, x, first=5, threads=3), one, x, formula)
    # The seams between tasks, against the reference.
    for begin in range(0, n, 1 << 18):
        part = slice(max(0, begin - 50), begin + 50)
        want = expected(BF16, formula, [BF16] * 3, [b[part] for b in x], 5 + part.start)
        assert_same(one[part], want, [b[part] for b in x], formula)


def test_many_spans_of_several_formulas(isa: str) -> None:
    spans, checks = [], []
    for i, n in enumerate([0, 1, 700_000, 17, 400_001, 5] * 2):
        fmt, kind = FORMATS[i % 3], Formula(i % len(Formula))
        formula, x = random_formula(kind, 3, i), inputs([fmt] * 3, n, i)
        out = np.full(n, 0xA5, fmt.uint)
        spans.append((out, 0, fmt.code, [(b, 0, fmt.code) for b in x], n, 0, formula))
        checks.append((out, fmt, formula, x))
    _cpu.combine_spans(spans, isa, 3)
    for out, fmt, formula, x in checks:
        sample = slice(0, 20_000)
        want = expected(fmt, formula, [fmt] * 3, [b[sample] for b in x])
        assert_same(out[sample], want, [b[sample] for b in x], formula)


HALF = np.float32(0.5)
PAIR_LAMS = [
    0.2, 0.5, 0.6, 0.8, 1 / 3, 1e-30, 1 - 2**-24, 1.7, 3.3, -0.25,
    float(np.nextafter(HALF, np.float32(0))), float(np.nextafter(HALF, np.float32(1))),
]  # fmt: skip


@by_format
@pytest.mark.parametrize("lam", PAIR_LAMS)
def test_affine_of_two_is_lerp(isa: str, fmt: Format, lam: float) -> None:
    """Both branches, extrapolation above -0.5, the sign of every zero."""
    special = special_pairs(fmt, fmt)
    x = [np.concatenate([s, random_bits(fmt, 50_000, k)]) for k, s in enumerate(special)]
    formula = {"formula": AFFINE, "weights": affine_weights([1 - lam, lam])}
    want = torch_lerp(fmt, fmt, x[0], fmt, x[1], float(np.float32(lam)))
    assert_same(combine(isa, fmt, formula, [fmt] * 2, x), want, x, formula)


# 0 and 1 are copies in lerp, and no arithmetic: merge_checkpoint makes them copies too.
ANY_LAM = st.floats(float(np.nextafter(-HALF, np.float32(0))), 4, width=32).filter(lambda w: w not in (0, 1))


@given(lam=ANY_LAM, seed=st.integers(0, 1000))
def test_affine_of_two_is_lerp_for_any_lam(isa: str, lam: float, seed: int) -> None:
    x = inputs([BF16, BF16], 300, seed)
    formula = {"formula": AFFINE, "weights": affine_weights([1 - lam, lam])}
    assert_same(combine(isa, BF16, formula, [BF16] * 2, x), torch_lerp(BF16, BF16, x[0], BF16, x[1], lam), x, formula)


def test_affine_starts_from_the_model_with_the_largest_weight(isa: str) -> None:
    """All weight on one model of five gives that model: its zeros' signs apart, nothing rounds."""
    x = [moderate_bits(BF16, 1000, k) for k in range(5)]
    for m in range(5):
        formula = {"formula": AFFINE, "weights": [float(k == m) for k in range(5)]}
        assert_same(combine(isa, BF16, formula, [BF16] * 5, x), x[m], x, formula)


def test_equal_models_are_unchanged(isa: str) -> None:
    """No formula over task vectors of 0 moves a finite number; nor does an average of equal models."""
    x = moderate_bits(BF16, 1000, 1)
    for kind in set(Formula) - {SUM}:
        formula = random_formula(kind, 4, 1)
        assert_same(combine(isa, BF16, formula, [BF16] * 4, [x] * 4), x, [x] * 4, formula)


@by_format
def test_ties_without_agreeing_models(isa: str, fmt: Format) -> None:
    """Weights 0 and thresholds of infinity leave a denominator of 0, which divides as 1: the base comes back."""
    x = [moderate_bits(fmt, 1000, k) for k in range(3)]
    cut = {"formula": TIES, "weights": [0.0, 1.0, 1.0], "thresholds": [0.0, np.inf, np.inf], "scale": 0.5}
    nothing = {"formula": TIES, "weights": [0.0, 0.0, 0.0], "thresholds": [0.0, 0.0, 0.0], "scale": 0.5}
    for formula in (cut, nothing):
        assert_same(combine(isa, fmt, formula, [fmt] * 3, x), x[0], x, formula)


def test_ties_by_hand(isa: str) -> None:
    """base 1; vectors +3, +1, -2, 0.5: trimmed below 1, the sign is +, the mean of 3 and 1 is 2, times 0.5."""
    x = [np.full(40, v, np.float32).view(np.uint32) for v in (1.0, 4.0, 2.0, -1.0, 1.5)]
    formula = {"formula": TIES, "weights": [0.0, 1, 1, 1, 1], "thresholds": [0.0, 1, 1, 1, 1], "scale": 0.5}
    assert (combine(isa, F32, formula, [F32] * 5, x).view(np.float32) == 2.0).all()
    formula["normalize"] = False
    assert (combine(isa, F32, formula, [F32] * 5, x).view(np.float32) == 3.0).all()


def test_nan_of_a_model_reaches_the_result(isa: str) -> None:
    nan = np.full(40, 0x7FC0, np.uint16)
    for kind in (AFFINE, SUM, TASK, TIES):
        for place in range(3):
            x = [moderate_bits(BF16, 40, k) for k in range(3)]
            x[place] = nan
            formula = {"formula": kind, "weights": [0.2, 0.3, 0.5], "thresholds": [0.0, 1.0, 1.0], "scale": 0.5}
            assert (combine(isa, BF16, formula, [BF16] * 3, x) == 0x7FC0).all(), (kind.name, place)


def test_dare_depends_only_on_the_place(isa: str) -> None:
    """Any cut into spans, at any `first`, gives the bits of the whole."""
    formula, n = random_formula(DARE, 4, 6), 10_001
    formula["densities"] = [1.0, 0.5, 0.2, 0.9]
    x = [moderate_bits(BF16, n, k) for k in range(4)]
    whole = combine(isa, BF16, formula, [BF16] * 4, x)
    for size in (1, 7, 1023, 1024, 4096):
        cuts = range(0, min(n, 40 * size), size)
        parts = [combine(isa, BF16, formula, [BF16] * 4, [b[i : i + size] for b in x], first=i) for i in cuts]
        got = np.concatenate(parts)
        assert_same(got, whole[: got.size], x, formula)


@pytest.mark.parametrize("first", [0, 1, (1 << 32) - 7, 1 << 40])
def test_dare_beyond_32_bits(isa: str, first: int) -> None:
    check(isa, BF16, random_formula(DARE, 3, 2), [BF16] * 3, inputs([BF16] * 3, 2000, 3), first=first)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 2.0**-20, 1e-30, 1.0])
def test_dare_keeps_its_density(isa: str, density: float) -> None:
    n = 200_000
    x = [np.zeros(n, np.uint32), np.full(n, np.float32(1)).view(np.uint32)]
    formula = {"formula": DARE, "weights": [0.0, 1.0], "densities": [1.0, density], "keys": [0, 12345], "scale": 1.0}
    formula["normalize"] = False
    result = combine(isa, F32, formula, [F32] * 2, x).view(np.float32)
    kept = result != 0
    assert set(np.unique(result[kept])) <= {np.float32(1) / np.float32(density)}
    # Six standard deviations of the binomial distribution.
    assert abs(kept.sum() - n * density) <= 6 * (n * density * (1 - density)) ** 0.5 + (density < 1)


@pytest.mark.parametrize("place", [0, 1, 40, 1022, 1023, 1024, 1099])
def test_dare_drops_the_element_whose_number_is_the_density(isa: str, place: int) -> None:
    """A number below the density keeps its element; the density itself is not below."""
    key, first, n = 12345, 7, 1100
    numbers = reference.uniform(key, first, n)
    density = float(numbers[place])  # 24 bits: exact in float32
    x = [np.zeros(n, np.uint32), np.full(n, np.float32(1)).view(np.uint32)]
    formula = {"formula": DARE, "weights": [0.0, 1.0], "densities": [1.0, density], "keys": [0, key], "scale": 1.0}
    kept = combine(isa, F32, formula, [F32] * 2, x, first=first).view(np.float32) != 0
    assert not kept[place]
    np.testing.assert_array_equal(kept, numbers < density)


def test_streams_of_different_keys_are_independent() -> None:
    one, two = (reference.uniform(key, 0, 100_000) < 0.5 for key in (1, 2))
    # Six standard deviations of the binomial distribution around one half.
    assert abs((one == two).mean() - 0.5) < 6 * 0.5 / 100_000**0.5


def test_the_generator_is_splitmix64() -> None:
    """The first outputs of the published generator from seed 1234567: its upper 24 bits."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [int(u * (1 << 24)) for u in reference.uniform(1234567, 0, 3)] == [v >> 40 for v in published]


@pytest.mark.usefixtures("flush_denormals")
def test_flush_to_zero_of_the_caller_changes_nothing(isa: str) -> None:
    """Of inputs, of results, and of a weight: 1e-40 * 3e38 is 0.03."""
    x = [np.zeros(40, np.uint32), np.full(40, np.float32(3e38)).view(np.uint32)]
    formula = {"formula": SUM, "weights": [1.0, 1e-40]}
    assert (combine(isa, F32, formula, [F32] * 2, x).view(np.float32) > 0.0299).all()
    small = [np.full(40, 5, np.uint16), np.full(40, 3, np.uint16)]
    formula = {"formula": TASK, "weights": [0.0, 1.0], "scale": 1.0}
    assert (combine(isa, BF16, formula, [BF16] * 2, small) == 3).all()


@by_kind
@given(data=st.data())
def test_any_values_any_weights(isa: str, kind: Formula, data: st.DataObject) -> None:
    """Every ISA equals the reference on what hypothesis picks, and shrinks where it fails."""
    fmt = data.draw(st.sampled_from(FORMATS))
    models, n = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 40))
    element = st.integers(0, (1 << (8 * np.dtype(fmt.uint).itemsize)) - 1)
    x = [np.array(data.draw(st.lists(element, min_size=n, max_size=n)), fmt.uint) for _ in range(models)]
    weight = st.floats(-4, 4, width=32)
    formula: dict[str, Any] = random_formula(kind, models, data.draw(st.integers(0, 100)))
    formula["weights"] = data.draw(st.lists(weight, min_size=models, max_size=models))
    if takes(kind, "thresholds"):
        cut = st.floats(0, float("inf"), width=32)
        formula["thresholds"] = [0.0, *data.draw(st.lists(cut, min_size=models - 1, max_size=models - 1))]
    check(isa, fmt, formula, [fmt] * models, x)


def test_what_the_binding_refuses(isa: str) -> None:
    x = np.zeros(8, np.uint16)
    operand = (x, 0, 0)

    def span(models: int, n: int = 8, code: int = 0, **formula: Any) -> Any:
        how = {"formula": SUM, "weights": [1.0] * models, **formula}
        return (x.copy(), 0, code, [operand] * models, n, 0, how)

    for bad in (
        span(0),
        span(17),
        span(2, n=9),
        span(2, weights=[1.0]),
        span(2, formula=len(Formula)),
        span(2, formula=-1),
        span(1, formula=TASK),
    ):
        with pytest.raises(ValueError, match=r"model|range|one for each|formula"):
            _cpu.combine_spans([bad], isa)
    with pytest.raises(ValueError, match="copied"):
        _cpu.combine_spans([span(2, code=3)], isa)


def test_the_reference_rounds_once() -> None:
    """The reference itself, against the same sum in float64."""
    a, b = (moderate_bits(F32, 10_000, k).view(np.float32) for k in (1, 2))
    got = reference.weighted_sum([a, b], [0.3, 0.7])
    product = (np.float32(0.3) * a).astype(np.float64)
    exact = np.float64(np.float32(0.7)) * b.astype(np.float64) + product
    # float64 rounds the sum once more than fma does: half a unit of float64 against that of float32.
    assert (np.abs(got - exact) <= np.abs(exact) * 2.0**-24 * (1 + 2.0**-20) + 2.0**-149).all()
