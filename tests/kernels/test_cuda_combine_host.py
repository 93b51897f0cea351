"""The CUDA kernels over several models run on the CPU, against the CPU's scalar kernels: same bits, no byte beyond the
tensors, no access that a GPU would refuse."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels._cpu import Formula
from mi_kernels.backends import combine_table

from ..support import cuda_host
from ..support.bits import BF16, F16, F32, FORMATS, Format
from ..support.cuda_host.combined import Combined, make_combined, mixes
from ..support.formulas import random_formula

pytestmark = pytest.mark.skipif(cuda_host.GXX is None, reason=cuda_host.NO_GXX)

Run = Callable[..., int]
by_kind = pytest.mark.parametrize("kind", Formula, ids=lambda kind: kind.name.lower())
by_models = pytest.mark.parametrize("models", [2, 3, 4, 5, 6, 16])


class Table(ctypes.Structure):
    """mi::cuda::CombineTable."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("tensors", "combines", "chunk_tensor", "chunk_start")),
        ("chunk", ctypes.c_int64),
        ("models", ctypes.c_int),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a table with the kernel for its number of models, or with that for any; returns the misaligned accesses."""
    library = ctypes.CDLL(str(cuda_host.compile_library("lanes.cpp", tmp_path_factory.mktemp("lanes") / "lanes.so")))
    library.run_combine_launch.restype = ctypes.c_long

    def launch(built: combine_table.CombineTable, bf16: bool = False, kernel: int | None = None) -> int:
        at = built.sections
        packed = cuda_host.aligned(at.size)
        packed[:] = built.pack()
        sections = (packed.ctypes.data + start for start in at[:4])
        table = Table(*sections, built.chunk, built.models)
        chunks = ctypes.c_int64(len(built.chunk_tensor))
        models = built.models if kernel is None else kernel
        return int(library.run_combine_launch(ctypes.byref(table), chunks, models, ctypes.c_bool(bf16)))

    return launch


def check(run: Run, made: Combined, chunk: int, **options: Any) -> None:
    expected = made.expected()
    assert run(combine_table.build(made.tasks(), chunk), **options) == 0
    np.testing.assert_array_equal(made.arenas[0], expected)


COUNTS = [0, 1, 7, 8, 9, 255, 2047, 2048, 2049, 5003]


@by_kind
@by_models
@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "mixed"])
def test_chunks_are_bit_identical_to_the_cpu_kernels(run: Run, kind: Formula, models: int, bf16: bool) -> None:
    """Sizes around a group, all threads of a block and a chunk; all addresses modulo 16; dtypes mixed, or all bf16."""
    formats = [(BF16,) * (models + 1)] * len(COUNTS) if bf16 else mixes(models, len(COUNTS), models)
    formulas = [random_formula(kind, models, seed) for seed in range(len(COUNTS))]
    check(run, make_combined(formulas, formats, COUNTS, models), 2048, bf16=bf16)


@by_kind
@pytest.mark.parametrize("fmt", FORMATS, ids=[fmt.name for fmt in FORMATS])
@pytest.mark.parametrize("models", [2, 3, 5])
def test_wide_accesses_reach_every_part_of_a_chunk(run: Run, kind: Formula, fmt: Format, models: int) -> None:
    """Equal addresses modulo 16: first elements, groups, remaining elements."""
    skews = [[skew] * (models + 1) for skew in range(8)]
    counts = [4096 + 8 * skew + 3 for skew in range(8)]
    formulas = [random_formula(kind, models, 10 + skew) for skew in range(8)]
    made = make_combined(formulas, [(fmt,) * (models + 1)] * 8, counts, 3, skews)
    check(run, made, 4096, bf16=fmt is BF16)


@by_kind
@pytest.mark.parametrize("skew", range(8))
def test_wide_accesses_of_different_widths(run: Run, kind: Formula, skew: int) -> None:
    """bf16 and float32 whose boundaries of 16 bytes meet after some elements, and where they never meet."""
    formats: list[tuple[Format, ...]] = [(BF16, F32, BF16), (F32, BF16, F32), (F16, F32, F32), (F32,) * 3]
    formulas = [random_formula(kind, 2, skew + i) for i in range(4)]
    for apart in (0, 1):
        skews = [[skew, (skew + apart) % 8, skew] for _ in formats]
        check(run, make_combined(formulas, formats, [3003] * 4, skew, skews), 2048)


@by_kind
def test_every_mix_of_three_dtypes(run: Run, kind: Formula) -> None:
    formats = list(itertools.product(FORMATS, repeat=3))
    formulas = [random_formula(kind, 2, seed) for seed in range(len(formats))]
    check(run, make_combined(formulas, formats, [600] * len(formats), 5), 512)


@by_kind
@pytest.mark.parametrize("models", [2, 3, 4, 5])
def test_the_kernel_for_any_number_gives_the_same_bits(run: Run, kind: Formula, models: int) -> None:
    formulas = [random_formula(kind, models, seed) for seed in range(4)]
    check(run, make_combined(formulas, mixes(models, 4, 9), [700] * 4, models), 256, kernel=0)


@pytest.mark.parametrize("kind", [Formula.AFFINE, Formula.SUM], ids=["affine", "sum"])
def test_one_model(run: Run, kind: Formula) -> None:
    check(run, make_combined([{"formula": kind, "weights": [1.0]}], [(BF16, F16)], [1000], 1), 256)


@by_kind
@pytest.mark.parametrize("fmt", FORMATS, ids=[fmt.name for fmt in FORMATS])
@pytest.mark.parametrize("models", [2, 3, 5, 6])
def test_in_place(run: Run, kind: Formula, fmt: Format, models: int) -> None:
    for into in range(1, models + 1):
        formulas = [random_formula(kind, models, into)]
        made = make_combined(formulas, [(fmt,) * (models + 1)], [5001], into, in_place=into)
        check(run, made, 2048, bf16=fmt is BF16)


@pytest.mark.parametrize("models", [3, 4, 5])
def test_every_place_of_the_largest_weight(run: Run, models: int) -> None:
    """The kernel has the place of the largest weight as a constant."""
    for largest in range(models):
        weights = [0.1 + 0.8 * (k == largest) for k in range(models)]
        made = make_combined(
            [{"formula": Formula.AFFINE, "weights": weights}], mixes(models, 1, largest), [900], largest
        )
        check(run, made, 512)


@by_kind
@pytest.mark.parametrize("models", [3, 6])
def test_chunks_beyond_32_bits(run: Run, kind: Formula, models: int) -> None:
    """The last chunk of a tensor of more than 2^33 elements: only that part of it is there."""
    n, start = 700, 2**33
    made = make_combined([random_formula(kind, models, 4)], mixes(models, 1, 2), [n], 4)
    expected = made.expected()
    built = combine_table.build(made.tasks(), 4096)
    sizes = np.array([np.dtype(fmt.uint).itemsize for fmt in made.formats[0]])
    built.tensors[0, : models + 1] -= start * sizes
    built.tensors[0, models + 1 :][:2] += (start, -start)
    assert run(built._replace(chunk_start=np.array([start]))) == 0
    np.testing.assert_array_equal(made.arenas[0], expected)


@by_kind
def test_one_launch_for_several_formulas(run: Run, kind: Formula) -> None:
    """Neighbours with other formulas, or with other numbers in the same one; equal ones are stored once."""
    formulas = [random_formula(other, 3, seed) for seed, other in enumerate([kind, *Formula, kind])]
    formulas.append(dict(formulas[0]))
    made = make_combined(formulas, mixes(3, len(formulas), 1), [300] * len(formulas), 2)
    assert len(combine_table.build(made.tasks(), 256).combines) == len(formulas) - 1
    check(run, made, 256)


@given(
    st.sampled_from(list(Formula)),
    st.integers(2, 7),
    st.lists(st.integers(0, 300), min_size=1, max_size=4),
    st.integers(0, 2**31),
    st.integers(1, 300),
)
def test_any_sizes_and_chunks(run: Run, kind: Formula, models: int, counts: list[int], seed: int, chunk: int) -> None:
    formulas = [random_formula(kind, models, seed + i) for i in range(len(counts))]
    check(run, make_combined(formulas, mixes(models, len(counts), seed), counts, seed), chunk)


def test_the_table_describes_the_struct_of_the_kernels() -> None:
    """Each field of the packed formula is where COMBINE says."""
    from mi_kernels import _cpu

    formula: Any = {
        "formula": Formula.DARE,
        "weights": [0.0, 1.5, 2.5],
        "thresholds": [0.0, 3.0, 4.0],
        "densities": [1.0, 0.25, 0.75],
        "keys": [0, 7, 2**64 - 1],
        "scale": 0.125,
        "normalize": False,
    }
    packed = _cpu.pack_combine(formula, 3)
    assert len(packed) == combine_table.COMBINE.itemsize
    (found,) = np.frombuffer(packed, combine_table.COMBINE)
    assert (found["formula"], found["models"], found["largest"]) == (Formula.DARE, 3, 2)
    assert (found["normalize"], found["scale"]) == (False, 0.125)
    for name, given_name in (
        ("weight", "weights"),
        ("threshold", "thresholds"),
        ("density", "densities"),
        ("key", "keys"),
    ):
        assert found[name][:3].tolist() == formula[given_name]
    with pytest.raises(ValueError, match="base and a model"):
        _cpu.pack_combine({"formula": Formula.TASK, "weights": [1.0]}, 1)
    with pytest.raises(ValueError, match="16 models"):
        _cpu.pack_combine({"formula": Formula.SUM, "weights": [1.0] * 17}, 17)
