"""Compares the chunk table with a plain loop over the same tensors, and checks the layout of its packed bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels.backends import chunk_table as table


def build(counts: list[int], chunk: int) -> table.ChunkTable:
    numbers = np.arange(3 * len(counts), dtype=np.int64).reshape(-1, 3) * 16
    return table.build(numbers, np.array(counts, np.int64), np.linspace(0, 1, len(counts), dtype=np.float32), chunk)


@given(st.lists(st.integers(0, 5000), max_size=30), st.sampled_from([16, 1024, 4096]))
def test_chunks_are_those_of_a_plain_loop(counts: list[int], chunk: int) -> None:
    built = build(counts, chunk)
    expected = [(i, start) for i, n in enumerate(counts) for start in range(0, n, chunk)]
    assert list(zip(built.chunk_tensor.tolist(), built.chunk_start.tolist())) == expected
    assert built.tensors[:, 3].tolist() == counts
    assert built.tensors[:, :3].reshape(-1).tolist() == [16 * i for i in range(3 * len(counts))]
    assert (built.tensors.dtype, built.weights.dtype) == (np.int64, np.float32)
    assert (built.chunk_tensor.dtype, built.chunk_start.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0]])
def test_empty_tensors_make_no_chunk(counts: list[int]) -> None:
    built = build(counts, 64)
    assert len(built.chunk_tensor) == len(built.chunk_start) == 0
    assert built.pack().nbytes == built.offsets.size


def test_a_tensor_beyond_32_bits_is_divided_to_its_end() -> None:
    n = 2**31 + 5
    built = build([3, n], 2**20)
    assert built.chunk_start[-1] == 2**31
    assert built.tensors[-1, 3] == n


@pytest.mark.parametrize("counts", [[1], [7, 0, 4097], [4096] * 5])
def test_packed_sections_start_at_their_offsets(counts: list[int]) -> None:
    built = build(counts, 1024)
    packed, offsets = built.pack(), built.offsets
    assert packed.flags.c_contiguous
    assert packed.nbytes == offsets.size
    assert all(start % table.ALIGNMENT == 0 for start in offsets)
    for name in ("tensors", "weights", "chunk_tensor", "chunk_start"):
        section, start = getattr(built, name), getattr(offsets, name)
        found = packed[start : start + section.nbytes].view(section.dtype)
        assert np.array_equal(found.reshape(section.shape), section), name
