"""Pieces: every element once, nothing overlaps, no sliver, and a table that says what was placed where."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels.backends.piece import ALIGNMENT, Group, Layout, Part, Space, least_size, parts, size_for
from mi_kernels.backends.spans import CombineSpan, Operand, Span
from mi_kernels.dtypes import CODE_SIZES

BF16, F16, F32 = 0, 1, 2
BUFFERS = [bytearray(1) for _ in range(8)]  # only their identity matters here


def group(elements: int, operands: list[int], outs: list[int]) -> Group:
    """A group of interpolations with these dtypes; with other than two operands, a formula."""
    if len(operands) != 2:
        read = [Operand(BUFFERS[k % 8], 4 * k, code) for k, code in enumerate(operands)]
        return Group.of_combine(CombineSpan(bytearray(1), 0, outs[0], read, elements, 0, {}))
    a, b = operands
    spans = [
        Span(bytearray(1), 1, BUFFERS[0], 3, BUFFERS[1], 5, elements, 0.1 * (i + 1), out, a, b)
        for i, out in enumerate(outs)
    ]
    return Group.of_lerps(spans)


def widest(groups: list[Group]) -> Space:
    spaces = [g.space for g in groups]
    return Space(max(s.fixed for s in spaces), max(s.each for s in spaces))


DTYPES = st.sampled_from([BF16, F16, F32])
OPERANDS = st.one_of(st.lists(DTYPES, min_size=2, max_size=2), st.lists(DTYPES, min_size=3, max_size=17))


@st.composite
def mixes(draw: st.DrawFn) -> list[Group]:
    found = []
    for _ in range(draw(st.integers(1, 8))):
        operands = draw(OPERANDS)
        outs = draw(st.lists(DTYPES, min_size=1, max_size=5 if len(operands) == 2 else 1))
        found.append(group(draw(st.one_of(st.integers(0, 300), st.integers(0, 200_000))), operands, outs))
    return found


def layouts(groups: list[Group], size: int) -> list[tuple[list[Part], Layout, int]]:
    """Every piece, its layout and the bytes of its tables."""
    found = []
    for piece in parts(groups, size):
        layout = Layout(piece, size)
        end = layout.end
        layout.add_tables(np.zeros(size, np.uint8), 1 << 20, lambda elements: 8192)
        found.append((piece, layout, layout.end - end))
    return found


@given(groups=mixes(), factor=st.sampled_from([1.0, 1.5, 4.0, 100.0]))
def test_every_element_is_in_one_place_of_one_piece(groups: list[Group], factor: float) -> None:
    size = int(least_size(widest(groups)) * factor)
    seen: dict[int, int] = {}
    for piece, layout, _ in layouts(groups, size):
        assert layout.end <= layout.start
        taken: list[tuple[int, int]] = [(layout.end, layout.start)]
        for placed in layout.placed:
            part = placed.part
            assert part.elements > 0
            assert seen.get(id(part.group), 0) == part.first  # in order, without gaps
            seen[id(part.group)] = part.first + part.elements
            for at, operand in zip((*placed.operands, *placed.outs), (*part.group.operands, *part.group.outs)):
                assert at % ALIGNMENT == 0
                taken.append((at, at + part.elements * CODE_SIZES[operand.dtype]))
        assert len(layout.placed) == len(piece)
        taken.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(taken))
        assert taken[0][0] >= 0
        assert taken[-1][1] <= size
    assert all(seen.get(id(g), 0) == g.elements for g in groups)


@given(groups=mixes())
def test_what_fits_is_one_piece(groups: list[Group]) -> None:
    size = max(size_for(sum(g.space.bytes(g.elements) for g in groups)), least_size(widest(groups)))
    assert len(list(parts(groups, size))) == (1 if any(g.elements for g in groups) else 0)


@given(groups=mixes(), factor=st.sampled_from([1.0, 1.3, 4.0]))
def test_pieces_have_equal_parts(groups: list[Group], factor: float) -> None:
    """No sliver: two pieces differ by less than what a cut can move, which is little against a piece."""
    size = int(least_size(widest(groups)) * factor)
    sizes = [sum(p.group.space.bytes(p.elements) for p in piece) for piece in parts(groups, size)]
    slack = max(g.space.slack for g in groups)
    assert not sizes or max(sizes) - min(sizes) <= 2 * slack + 1 + sum(g.space.fixed for g in groups if not g.elements)
    total = sum(g.space.bytes(g.elements) for g in groups)
    assert len(sizes) <= total // max(size // 4, 1) + 1  # full enough


def test_a_chunk_of_two_bf16_inputs_takes_three_times_its_bytes() -> None:
    n = (4 << 20) // 2
    size = size_for(group(n, [BF16, BF16], [BF16]).space.bytes(n))
    assert 12 << 20 < size <= (12 << 20) + (20 << 10)


def test_a_chunk_that_does_not_fit_is_halved() -> None:
    n = (4 << 20) // 2
    [first, second] = parts([group(n, [BF16, BF16], [BF16])], 8 << 20)
    assert (first[0].first, second[0].first + second[0].elements) == (0, n)
    assert abs(first[0].elements - second[0].elements) <= 2 * 64  # the cut is at a multiple of 64


def test_shared_operands_are_placed_once() -> None:
    spans = [Span(bytearray(1), 0, BUFFERS[0], 0, BUFFERS[1], 0, 100, lam, F32, BF16, BF16) for lam in (0.0, 0.5, 1.0)]
    found = Group.of_lerps(spans)
    assert len(found.operands) == 2
    assert [tuple(x) for x in found.lerps] == [(0, 0, 0.0), (0, 1, 0.5), (1, 1, 1.0)]


@pytest.mark.parametrize("base", [0, 1 << 40])
def test_tables_say_what_was_placed_where(base: int) -> None:
    groups = [group(20_000, [BF16, BF16], [BF16]), group(9, [F32, F16], [BF16, BF16]), group(5, [BF16, BF16], [BF16])]
    [piece] = parts(groups, 1 << 20)
    layout, block = Layout(piece, 1 << 20), np.zeros(1 << 20, np.uint8)
    operands_end = layout.end
    launches = layout.add_tables(block, base, lambda elements: 8192)
    assert [tuple(launch.triple) for launch in launches] == [(0, 0, 0), (0, 2, 1)]
    assert layout.end == operands_end + sum(launch.offsets.size for launch in launches)
    found: list[Any] = []
    for launch in launches:
        at = launch.offsets
        table = block[launch.start : launch.start + at.size]
        rows = table[at.tensors : at.weights].view(np.int64).reshape(-1, 4)
        weights = table[at.weights : at.chunk_tensor].view(np.float32)
        assert (launch.chunk, launch.chunks) == (8192, sum(-(-n // 8192) for n in rows[:, 3].tolist()))
        assert table[at.chunk_tensor :].view(np.int32)[: launch.chunks].tolist() in ([0, 0, 0, 1], [0, 1])
        found += [(*row, weight) for row, weight in zip((rows - [base, base, base, 0]).tolist(), weights.tolist())]
    first, second, third = layout.placed
    expected = [
        (first.outs[0], *first.operands, 20_000, 0.1),
        (third.outs[0], *third.operands, 5, 0.1),
        (second.outs[0], *second.operands, 9, 0.1),
        (second.outs[1], *second.operands, 9, 0.2),
    ]
    want = [tuple(row) for row in np.array([(*row[:4], np.float32(row[4])) for row in expected], object).tolist()]
    assert [tuple(row) for row in found] == want


def test_formulas_have_no_table() -> None:
    [piece] = parts([group(100, [BF16] * 5, [BF16])], 1 << 16)
    layout = Layout(piece, 1 << 16)
    assert layout.add_tables(np.zeros(0, np.uint8), 0, lambda elements: 8192) == []
