"""The CUDA chunks run on the CPU, against the CPU's scalar kernels: same bits, no byte beyond the tensors, no access
that a GPU would refuse. The float16 conversions are the device's own on a GPU, and those of csrc/f16.h here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels.backends import chunk_table as table

from ..support import cuda_host
from ..support.cuda_host import TRIPLES, WEIGHTS, Pairs, make_pairs

pytestmark = pytest.mark.skipif(cuda_host.GXX is None, reason=cuda_host.NO_GXX)

Run = Callable[[table.ChunkTable, tuple[int, int, int]], int]


class Table(ctypes.Structure):
    """mi::cuda::Table."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("tensors", "weights", "chunk_tensor", "chunk_start")),
        ("chunk", ctypes.c_int64),
    )


class Types(ctypes.Structure):
    """mi::cuda::Types."""

    _fields_ = (("out", ctypes.c_int), ("a", ctypes.c_int), ("b", ctypes.c_int))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a table; returns the number of misaligned accesses."""
    library = ctypes.CDLL(str(cuda_host.compile_library("lanes.cpp", tmp_path_factory.mktemp("lanes") / "lanes.so")))
    library.run_launch.restype = ctypes.c_long

    def launch(built: table.ChunkTable, triple: tuple[int, int, int]) -> int:
        packed = cuda_host.aligned(built.offsets.size)
        packed[:] = built.pack()
        base, at = packed.ctypes.data, built.offsets
        sections = (base + at.tensors, base + at.weights, base + at.chunk_tensor, base + at.chunk_start)
        chunks = ctypes.c_int64(len(built.chunk_tensor))
        return int(library.run_launch(ctypes.byref(Table(*sections, built.chunk)), chunks, Types(*triple)))

    return launch


def check(run: Run, pairs: Pairs, chunk: int) -> None:
    expected = pairs.expected()
    assert run(table.build(pairs.addresses, pairs.counts, pairs.weights, chunk), pairs.triple) == 0
    np.testing.assert_array_equal(pairs.arenas[0], expected)


@pytest.mark.parametrize("triple", TRIPLES)
def test_chunks_are_bit_identical_to_the_cpu_kernels(run: Run, triple: tuple[int, int, int]) -> None:
    """Every weight; sizes around a vector, an iteration of the loop and a chunk; all addresses modulo 16."""
    counts = [0, 1, 7, 8, 9, 255, 256, 1024, 2047, 2048, 2049, 4096, 5003, 9001]
    cases = [(n, w) for n in counts for w in WEIGHTS]
    seed = TRIPLES.index(triple)
    check(run, make_pairs(triple, [n for n, _ in cases], [w for _, w in cases], seed), 2048)


@pytest.mark.parametrize("code", [0, 1, 2])
@pytest.mark.parametrize("weight", [0.3, 0.8, 0.0, 1.0])
def test_vectors_reach_every_part_of_a_chunk(run: Run, code: int, weight: float) -> None:
    """Equal addresses modulo 16: first elements, full iterations of vectors, single vectors, remaining elements."""
    skews = [(skew, skew, skew) for skew in range(8)]
    counts = [16384 + 2048 + 8 * skew + 3 for skew in range(8)]
    check(run, make_pairs((code,) * 3, counts, [weight] * 8, code, skews), 16384)


@pytest.mark.parametrize("code", [0, 1, 2])
@pytest.mark.parametrize("weight", [0.3, 0.8])
@pytest.mark.parametrize("apart", range(3))
def test_one_tensor_lying_apart_needs_no_vectors(run: Run, code: int, weight: float, apart: int) -> None:
    skew = tuple(1 if k == apart else 0 for k in range(3))
    check(run, make_pairs((code,) * 3, [5000], [weight], code, [(skew[0], skew[1], skew[2])]), 4096)


@pytest.mark.parametrize("code", [0, 1, 2])
@pytest.mark.parametrize("which", [1, 2])
def test_in_place(run: Run, code: int, which: int) -> None:
    counts = [9001] * len(WEIGHTS)
    check(run, make_pairs((code,) * 3, counts, list(WEIGHTS), code, in_place=which), 4096)


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("weight", [0.3, 0.8])
def test_every_16_bit_value(run: Run, code: int, weight: float) -> None:
    """Each of the 2^16 values of a with some other of b, and the other way round."""
    pairs = make_pairs((code,) * 3, [65536], [weight], 0, [(0, 0, 0)])
    every = np.arange(65536, dtype=np.uint16)
    for arena, start, values in zip(pairs.arenas[1:], pairs.offsets[0, 1:], (every, every * np.uint16(40503))):
        arena[start : start + 2 * 65536].view(np.uint16)[:] = values
    check(run, pairs, 8192)


@pytest.mark.parametrize("triple", [(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 0, 1)])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_chunks_beyond_32_bits(run: Run, triple: tuple[int, int, int], weight: float) -> None:
    """The last chunk of a tensor of more than 2^33 elements: only that part of it is there."""
    n, start = 700, 2**33
    pairs = make_pairs(triple, [n], [weight], 0)
    expected = pairs.expected()
    whole = pairs.addresses - start * np.array([cuda_host.SIZES[code] for code in triple])
    built = table.ChunkTable(
        np.array([[*whole[0], start + n]]), pairs.weights, np.zeros(1, np.int32), np.array([start]), 4096
    )
    assert run(built, triple) == 0
    np.testing.assert_array_equal(pairs.arenas[0], expected)


@given(st.lists(st.integers(0, 700), max_size=8), st.sampled_from(TRIPLES), st.integers(0, 2**31), st.integers(1, 300))
def test_any_sizes_and_chunks(run: Run, counts: list[int], triple: tuple[int, int, int], seed: int, chunk: int) -> None:
    weights = np.random.default_rng(seed).choice(WEIGHTS, len(counts)).tolist()
    check(run, make_pairs(triple, counts, weights, seed), chunk)
