"""The checks of the binding: spans beyond their buffers, and outputs with forbidden overlaps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import _cpu

from ..support.bits import BF16, F16, F32, FORMATS, Format


def bf16_span(**changes: Any) -> tuple[Any, ...]:
    """A valid span of four bf16 elements, with some of its fields changed."""
    arrays = {name: np.zeros(4, np.uint16) for name in ("out", "a", "b")}
    fields = {
        "out": arrays["out"], "out_offset": 0, "a": arrays["a"], "a_offset": 0, "b": arrays["b"], "b_offset": 0,
        "count": 4, "weight": 0.5, "out_dtype": 0, "a_dtype": 0, "b_dtype": 0,
    }  # fmt: skip
    return tuple({**fields, **changes}.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 5}, "out: the range ends beyond the buffer"),
        ({"out_offset": 1}, "out: the range ends beyond the buffer"),
        ({"a_offset": 1}, "a: the range ends beyond the buffer"),
        ({"b_offset": 9, "count": 0}, "b: the range ends beyond the buffer"),
        ({"b_dtype": 2}, "b: the range ends beyond the buffer"),
        ({"count": 1 << 62}, "count is too large"),
        ({"a_dtype": 4}, "dtype codes"),
        ({"out_dtype": -1}, "dtype codes"),
        ({"out_dtype": 3, "a_dtype": 3, "b_dtype": 3}, "bytes can only be copied"),
        ({"out_dtype": 3, "weight": 1.0}, "bytes can only be copied"),
    ],
)
def test_spans_outside_their_buffers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _cpu.lerp_spans([bf16_span(**changes)], "scalar")


def test_spans_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="tuple of 11"):
        _cpu.lerp_spans([bf16_span()[:-1]], "scalar")


def test_read_only_outputs_are_refused() -> None:
    with pytest.raises((BufferError, ValueError), match=r"(?i)read-?only|writable"):
        _cpu.lerp_spans([bf16_span(out=bytes(8))], "scalar")


def test_unknown_isas_are_refused() -> None:
    with pytest.raises(ValueError, match="no ISA named 'sse9'"):
        _cpu.lerp_spans([], "sse9")


# find_overlap: (out offset, a offset, b offset, count, formats) of each pair inside one buffer of 64 bytes.
HALVES = (BF16, BF16, BF16)


@pytest.mark.parametrize(
    ("pairs", "clash"),
    [
        pytest.param([(0, 16, 32, 8, HALVES)], None, id="apart and touching"),
        pytest.param([(16, 16, 32, 8, HALVES)], None, id="out is a"),
        pytest.param([(32, 16, 32, 8, HALVES)], None, id="out is b"),
        pytest.param([(0, 0, 0, 8, HALVES)], None, id="all three the same"),
        pytest.param([(0, 16, 18, 8, HALVES)], None, id="inputs may overlap"),
        pytest.param([(0, 16, 32, 8, (BF16, F16, BF16))], None, id="mixed apart"),
        pytest.param([(0, 0, 32, 8, (BF16, F16, BF16))], None, id="in place, another dtype of the same size"),
        pytest.param([(0, 0, 32, 8, (BF16, F32, BF16))], (0, "a", 0), id="same start, wider input"),
        pytest.param([(0, 40, 0, 4, (F32, BF16, BF16))], (0, "b", 0), id="same start, wider output"),
        pytest.param([(18, 16, 48, 8, HALVES)], (0, "a", 0), id="one element later"),
        pytest.param([(14, 16, 48, 8, HALVES)], (0, "a", 0), id="one element earlier"),
        pytest.param([(31, 0, 32, 8, HALVES)], (0, "b", 0), id="one byte"),
        pytest.param([(0, 16, 32, 4, HALVES), (6, 16, 32, 4, HALVES)], (1, "out", 0), id="outputs"),
        pytest.param([(0, 16, 32, 4, HALVES), (0, 16, 32, 4, HALVES)], (1, "out", 0), id="one output twice"),
        pytest.param([(0, 16, 32, 4, HALVES), (16, 48, 32, 4, HALVES)], (1, "a", 0), id="another pair's a"),
        pytest.param([(0, 16, 32, 4, HALVES), (48, 56, 0, 4, HALVES)], (0, "b", 1), id="another pair's b"),
        pytest.param([(0, 16, 32, 4, HALVES), (2, 2, 2, 0, HALVES)], None, id="empty ones overlap nothing"),
        pytest.param([], None, id="nothing at all"),
    ],
)  # fmt: skip
def test_find_overlap(pairs: list[tuple[int, int, int, int, Any]], clash: tuple[int, str, int] | None) -> None:
    memory = bytearray(64)
    spans = [
        (memory, out, memory, a, memory, b, n, 0.5, *(fmt.code for fmt in formats)) for out, a, b, n, formats in pairs
    ]
    assert _cpu.find_overlap(spans) == clash


@given(data=st.data())
def test_find_overlap_equals_comparing_all_pairs(data: st.DataObject) -> None:
    memory = bytearray(64)
    offset = st.integers(0, 48)
    pair = st.tuples(offset, offset, offset, st.integers(0, 4), *[st.sampled_from(FORMATS)] * 3)
    pairs = data.draw(st.lists(pair, max_size=4))
    spans = [(memory, o, memory, a, memory, b, n, 0.5, f.code, g.code, h.code) for o, a, b, n, f, g, h in pairs]

    def area(start: int, n: int, fmt: Format) -> tuple[int, int]:
        return start, start + n * np.dtype(fmt.uint).itemsize

    clashes = set()
    for (i, (o, _, _, n, f, _, _)), (j, (p, a, b, m, k, g, h)) in itertools.product(enumerate(pairs), repeat=2):
        begin, end = area(o, n, f)
        for name, start, fmt in (("out", p, k), ("a", a, g), ("b", b, h)):
            low, high = area(start, m, fmt)
            in_place = i == j and (name == "out" or (low, high) == (begin, end))
            if max(begin, low) < min(end, high) and not in_place:
                clashes.add((i, name, j))
    found = _cpu.find_overlap(spans)
    assert (found is None) == (not clashes)
    assert found is None or found in clashes


def test_addresses_and_weights_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        _cpu.lerp_addresses(np.zeros(4, np.int64), np.zeros(2), 0, 0, 0, "scalar")
    with pytest.raises(ValueError, match="only be copied"):
        _cpu.lerp_addresses(np.zeros(4, np.int64), np.zeros(1), 3, 3, 3, "scalar")
