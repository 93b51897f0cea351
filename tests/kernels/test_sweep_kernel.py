"""Several lam of one pair in one pass: each output has the bits of its own lerp_spans."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from mi_kernels import _cpu

from ..support.bits import BF16, F16, F32, FORMATS, Format, random_bits, special_pairs

LAMS = (0.0, 0.2, 0.3, 0.5, 0.6, 0.8, 1.0, -0.3, -0.7, 1.7, 1e-40, 1 - 1e-12, 0.5 - 1e-12)
POISON = 0xA5

Pair = tuple[np.ndarray, np.ndarray]


def pair(a: Format, b: Format, n: int, seed: int) -> Pair:
    special_a, special_b = special_pairs(a, b)
    x = np.concatenate([special_a, random_bits(a, n, seed)])[-n:] if n else special_a[:0]
    y = np.concatenate([special_b, random_bits(b, n, seed + 1)])[-n:] if n else special_b[:0]
    return x, y


def spans(
    pairs: list[tuple[Pair, tuple[int, int, int], int]], lams: Any, shift: int = 0
) -> tuple[list[Any], list[Any]]:
    """Spans for each pair and lam, in that order; and the poisoned outputs, which begin at byte `shift`."""
    found, outs = [], []
    sizes = (2, 2, 4, 1)
    for (a, b), (out, code_a, code_b), n in pairs:
        for lam in lams:
            buffer = np.full(n * sizes[out] + 64, POISON, np.uint8)
            found.append((buffer, shift, a, 0, b, 0, n, lam, out, code_a, code_b))
            outs.append(buffer)
    return found, outs


def check(isa: str, pairs: list[tuple[Pair, tuple[int, int, int], int]], lams: Any, shift: int = 0) -> None:
    together, got = spans(pairs, lams, shift)
    _cpu.lerp_groups(together, len(lams), isa)
    apart, want = spans(pairs, lams, shift)
    for span in apart:
        _cpu.lerp_spans([span], isa)
    for span, x, y in zip(together, got, want):
        # Guards included: both must have left them alone.
        np.testing.assert_array_equal(x, y, err_msg=f"lam {span[7]}, dtypes {span[8:]}")


# Blocks that outputs share have 4,096 elements.
@pytest.mark.parametrize("n", [0, 1, 17, 4095, 4096, 4097, 20_003])
@pytest.mark.parametrize("fmt", FORMATS, ids=[f.name for f in FORMATS])
def test_every_lam_equals_its_own_merge(isa: str, fmt: Format, n: int) -> None:
    codes = (fmt.code, fmt.code, fmt.code)
    for shift in (0, 1, 6):
        check(isa, [(pair(fmt, fmt, n, 1), codes, n)], LAMS, shift)


@pytest.mark.parametrize(
    "formats", list(itertools.product(FORMATS, repeat=3)), ids=lambda t: "-".join(f.name for f in t)
)
def test_mixed_dtypes(isa: str, formats: tuple[Format, Format, Format]) -> None:
    out, a, b = formats
    check(isa, [(pair(a, b, 9001, 3), (out.code, a.code, b.code), 9001)], LAMS)


def test_bytes(isa: str) -> None:
    a, b = (random_bits(F32, 2500, k).view(np.uint8) for k in (1, 2))
    check(isa, [((a, b), (3, 3, 3), 10_000)], (0.0, 1.0, 0.0))


def test_many_groups(isa: str) -> None:
    pairs = [
        (pair(a, b, n, n), (a.code, a.code, b.code), n)
        for n, (a, b) in zip((5, 0, 4099, 1, 12_000), ((BF16, BF16), (F16, F16), (F32, F32), (BF16, F32), (F16, BF16)))
    ]
    check(isa, pairs, (0.8, 0.0, 0.3))


@pytest.mark.parametrize("lams", [(0.3,), (0.0,), (0.3,) * 40])
def test_groups_of_any_size(isa: str, lams: tuple[float, ...]) -> None:
    check(isa, [(pair(BF16, BF16, 5000, 5), (0, 0, 0), 5000)] * 2, lams)


def test_what_the_binding_refuses(isa: str) -> None:
    found, _ = spans([(pair(BF16, BF16, 10, 1), (0, 0, 0), 10)], (0.1, 0.2, 0.3))
    for group in (0, 2, 4):
        with pytest.raises(ValueError, match="divide"):
            _cpu.lerp_groups(found, group, isa)
    shorter = (*found[1][:6], 9, *found[1][7:])
    with pytest.raises(ValueError, match="one count"):
        _cpu.lerp_groups([found[0], shorter, found[2]], 3, isa)
