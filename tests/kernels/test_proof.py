"""Runs the proof over all bf16 pairs for one weight of each form of the formula, and shows that it can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mi_kernels import _cpu

from ..support.bits import BF16, specials
from . import prove_bf16

# Every 61st value, so that all mantissas and exponents come by, and the special ones.
SLICE = sorted({*range(0, 1 << 16, 61), *specials(BF16).tolist()})

# The real ones, for tests that replace them.
PROVE, LERP_SPANS = prove_bf16.prove, _cpu.lerp_spans


@pytest.mark.parametrize("lam", [0.3, 0.8])
def test_all_pairs_equal_torch(lam: float) -> None:
    assert prove_bf16.prove(lam, _cpu.isas()[:1]) == 1 << 32


@pytest.mark.parametrize("lam", [0.3, 0.5, 0.8, 1e-40, 1.7])
def test_every_isa_equals_torch_and_each_other_on_a_slice(lam: float) -> None:
    assert prove_bf16.prove(lam, _cpu.isas(), SLICE) == len(SLICE) << 16


def broken(isa: str, a: int, b: int, wrong: int) -> Any:
    """lerp_spans, but for one pair on one ISA."""

    def lerp_spans(spans: Any, used: str, *rest: Any) -> None:
        LERP_SPANS(spans, used, *rest)
        out, in_b = spans[0][0], spans[0][4]
        if used == isa and in_b[a] == b:
            out[a] = wrong

    return lerp_spans


@pytest.mark.parametrize(
    ("a", "b", "wrong"),
    [(0x3F80, 0x4000, 0x3FE7), (0x3F80, 0x7FC0, 0x7FC1), (0x3F80, 0x4000, 0x7FC0), (0x3F80, 0x7FC0, 0x3F80)],
    ids=["one bit", "another NaN", "NaN for a number", "a number for NaN"],
)
def test_one_wrong_result_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], a: int, b: int, wrong: int
) -> None:
    monkeypatch.setattr(_cpu, "lerp_spans", broken("scalar", a, b, wrong))
    monkeypatch.setattr(prove_bf16, "prove", lambda lam, isas, progress: PROVE(lam, isas, [0, b, 0x7FFF]))
    assert prove_bf16.main(["--lam", "0.8", "--isa", "scalar"]) == 1
    message = capsys.readouterr().err
    for part in ("lam 0.8", f"a {a:#06x}", f"b {b:#06x}", "torch", "scalar", f"{wrong:#06x}"):
        assert part in message


def test_isas_that_disagree_are_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(_cpu.isas()) < 2:
        pytest.skip("this machine has one ISA")
    first, second = _cpu.isas()[0], _cpu.isas()[-1]
    monkeypatch.setattr(_cpu, "lerp_spans", broken(second, 7, 9, 0x1234))
    with pytest.raises(prove_bf16.Difference, match=f"a 0x0007, b 0x0009: {first} gives 0x0008, {second} 0x1234"):
        prove_bf16.prove(0.6, [first, second], [9])


@pytest.mark.parametrize("lam", ["0", "1"])
def test_the_proof_rejects_weights_that_copy(capsys: pytest.CaptureFixture[str], lam: str) -> None:
    assert prove_bf16.main(["--lam", lam]) == 1
    assert "copies bytes" in capsys.readouterr().err


def test_the_last_line_counts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(prove_bf16, "prove", lambda lam, isas, progress: PROVE(lam, isas, [1, 2]))
    assert prove_bf16.main(["--lam", "0.8", "--lam", "0.3", "--isa", "scalar"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1] == f"{2 * 2 * (1 << 16):,} pairs proved"


def test_a_block_holds_every_value_once() -> None:
    np.testing.assert_array_equal(np.sort(prove_bf16.ALL), np.arange(1 << 16))
