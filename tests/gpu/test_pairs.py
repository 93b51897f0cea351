"""All 2^32 pairs of bf16 values, and a slice of them that the interpreter can do."""

from __future__ import annotations

from typing import Any

import pytest

from .all_pairs import LAMS, VALUES, differing
from .conftest import INTERPRETED

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

# Zero, a subnormal, 1, the largest finite value, inf, a NaN with a payload, and their likes below zero.
ROWS = [0x0000, 0x0001, 0x3F80, 0x7F7F, 0x7F80, 0x7FA5, 0x8000, 0xBF81, 0xFF80]


@pytest.mark.parametrize("lam", [0.3, 0.8])
def test_rows_of_pairs(backend: str, device: Any, lam: float) -> None:
    if INTERPRETED and backend == "reference":
        pytest.skip("on CPU tensors the reference is the NumPy one")
    assert differing(lam, backend, str(device), ROWS, sample=1) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("lam", LAMS)
def test_all_pairs(cuda: Any, backend: str, lam: float) -> None:
    if backend == "reference":
        pytest.skip("it is what the others are compared with")
    assert differing(lam, backend, str(cuda), range(VALUES)) == (0, 0)
