"""Combining on the device: the bits of the CPU kernels, for every formula, method, dtype and alignment."""

from __future__ import annotations

import itertools
from importlib import import_module
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mi_kernels import _cpu, combine  # noqa: E402
from mi_kernels._cpu import Formula  # noqa: E402
from mi_kernels.backends.combine_table import CombineTask  # noqa: E402

from ..support.bits import BF16, F32, FORMATS, to_bits, to_torch  # noqa: E402
from ..support.formulas import inputs, moderate_bits, random_formula  # noqa: E402
from ..support.methods import drawn_cases  # noqa: E402
from .conftest import INTERPRETED  # noqa: E402
from .tensors import placed  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy's, of overflow to inf

CASES = drawn_cases(2)


def combiner(backend: str) -> Any:
    if backend == "reference":
        pytest.skip("the reference does not combine on a device")
    return import_module(f"mi_kernels.backends.{backend}_combine")


def check(module: Any, device: Any, rows: list[tuple[Any, tuple[Any, ...], int, int]], skewed: bool = True) -> None:
    """One call for all rows of (formula, formats of out and the models, elements, first index)."""
    tasks, wanted = [], []
    for i, (formula, formats, n, first) in enumerate(rows):
        x = inputs(formats[1:], n, 7 * i)
        skews = [(i + k * skewed) % 8 for k in range(len(formats))]
        out = placed(torch.zeros(n, dtype=formats[0].dtype), device, skews[0])
        operands = [placed(to_torch(f, b), device, s) for f, b, s in zip(formats[1:], x, skews[1:])]
        tasks.append(CombineTask(out, operands, first, formula))
        want = np.zeros(n, formats[0].uint)
        spans = [(want, 0, formats[0].code, [(b, 0, f.code) for f, b in zip(formats[1:], x)], n, first, formula)]
        _cpu.combine_spans(spans, "scalar")
        wanted.append(want)
    module.multi_combine(tasks)
    for row, task, want in zip(rows, tasks, wanted):
        np.testing.assert_array_equal(to_bits(task.out.cpu(), row[1][0]), want, str(row))


@pytest.mark.parametrize("kind", Formula, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("models", [2, 3, 4, 5, 6, 16])
def test_every_formula_has_the_bits_of_the_cpu(backend: str, device: Any, kind: Formula, models: int) -> None:
    """Sizes around a group and a block, aligned and not; bf16 throughout, and mixes."""
    module = combiner(backend)
    if kind not in module.formulas():
        pytest.skip(f"{backend} does not compute {kind.name}")
    rng = np.random.default_rng(models)
    rows: list[Any] = []
    for i, n in enumerate([0, 1, 7, 9, 255, 2049, 5003] if INTERPRETED else [0, 1, 7, 9, 255, 2049, 5003, 100_003]):
        mix = tuple(FORMATS[j] for j in rng.integers(0, 3, models + 1))
        formula = random_formula(kind, models, i)
        rows += [(formula, (BF16,) * (models + 1), n, i), (formula, mix, n, 1 << (4 * i))]
    check(module, device, rows)
    check(module, device, rows, skewed=False)


@pytest.mark.parametrize("kind", Formula, ids=lambda kind: kind.name.lower())
def test_every_mix_of_three_dtypes(backend: str, device: Any, kind: Formula) -> None:
    module = combiner(backend)
    if kind not in module.formulas():
        pytest.skip(f"{backend} does not compute {kind.name}")
    mixes = itertools.product(FORMATS, repeat=3)
    check(module, device, [(random_formula(kind, 2, i), mix, 1100, i) for i, mix in enumerate(mixes)])


def test_a_weight_of_zero_keeps_the_signs_of_zeros(backend: str, device: Any) -> None:
    """-0 * d is not 0 * d where it is added to a zero."""
    rows: list[Any] = []
    for weights in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [-0.0, 1.0, -0.0]):
        rows.append(({"formula": Formula.AFFINE, "weights": weights}, (BF16,) * 4, 3000, 0))
    check(combiner(backend), device, rows)


@pytest.mark.parametrize("kind", [Formula.AFFINE, Formula.TASK], ids=lambda kind: kind.name.lower())
def test_in_place(backend: str, device: Any, kind: Formula) -> None:
    module = combiner(backend)
    for into in range(3):
        formula, x = random_formula(kind, 3, into), inputs([BF16] * 3, 5001, into)
        want = np.zeros(5001, np.uint16)
        _cpu.combine_spans([(want, 0, 0, [(b, 0, 0) for b in x], 5001, 0, formula)], "scalar")
        there = [placed(to_torch(BF16, b), device) for b in x]
        module.multi_combine([CombineTask(there[into], there, 0, formula)])
        np.testing.assert_array_equal(to_bits(there[into].cpu(), BF16), want)


def test_a_formula_that_the_backend_does_not_compute_is_refused(backend: str, device: Any) -> None:
    module = combiner(backend)
    x = placed(torch.zeros(8), device)
    for kind in set(Formula) - module.formulas():
        with pytest.raises(Exception, match=rf"backend 'triton' does not compute {kind.name}\nUse backend 'cuda'"):
            module.multi_combine([CombineTask(x, [x, x], 0, random_formula(kind, 2, 0))])


@pytest.mark.parametrize("fmt", FORMATS, ids=[fmt.name for fmt in FORMATS])
@pytest.mark.parametrize("n", [1, 1025, 70_003, (1 << 20) + 5, 3_000_017])
def test_statistics_have_the_bits_of_the_cpu(cuda: Any, backend: str, fmt: Any, n: int) -> None:
    """Of moderate values, and of tensors that are nearly equal."""
    if backend != "cuda":
        pytest.skip("backend 'cuda' computes statistics")
    from mi_kernels.backends.spans import Operand
    from mi_kernels.methods import statistics

    module = combiner(backend)
    x, y = moderate_bits(fmt, n, 1), moderate_bits(fmt, n, 2)
    y[::2] = x[::2]
    base = moderate_bits(F32, n, 3)

    def reader(values: Any, code: int) -> Any:
        return lambda first, count: Operand(values, first * values.itemsize, code)

    readers = reader(x, fmt.code), reader(y, fmt.code), reader(base, F32.code)
    a, b, c = (placed(to_torch(f, v), cuda, 3) for f, v in ((fmt, x), (fmt, y), (F32, base)))
    for k in sorted({1, 1 + n // 5, 1 + n // 3, n}):
        assert module.kth_largest_difference(a, b, k) == statistics.kth_largest_difference(*readers[:2], n, k), k
    assert module.moments(a, b, None) == statistics.moments(readers[0], readers[1], None, n)
    assert module.moments(a, b, c) == statistics.moments(*readers, n)


@pytest.mark.parametrize("case", CASES)
def test_every_method_has_the_bits_of_the_cpu(case: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    method, with_base, count, parameters = CASES[case]
    tensors = [torch.randn(5001).bfloat16() for _ in range(with_base + count)]
    results = []
    for device in ("cpu", "cuda"):
        moved = [t.to(device) for t in tensors]
        base = {"base": moved[0]} if with_base else {}
        made = combine(moved[with_base:], method, **base, **parameters)
        out = torch.empty_like(moved[0])
        assert combine(moved[with_base:], method, **base, **parameters, out=out) is out
        assert made.device == moved[0].device
        results += [made.cpu(), out.cpu()]
    for other in results[1:]:
        assert torch.equal(results[0].view(torch.int16), other.view(torch.int16))


def test_a_captured_combination_replays(cuda: Any, backend: str) -> None:
    """A graph sees what its inputs hold at each replay."""
    if backend != "cuda":
        pytest.skip("Triton compiles at its first launch")
    module = combiner(backend)
    x = [torch.randn(9001, device=cuda).bfloat16() for _ in range(3)]
    out = torch.empty_like(x[0])
    task = CombineTask(out, x, 0, random_formula(Formula.TIES, 3, 1))
    module.multi_combine([task])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module.multi_combine([task])
    for seed in range(2):
        for k, t in enumerate(x):
            t.copy_(to_torch(BF16, moderate_bits(BF16, 9001, 10 * seed + k)))
        graph.replay()
        torch.cuda.synchronize()
        captured = out.clone()
        module.multi_combine([task])
        assert torch.equal(captured.view(torch.int16), out.view(torch.int16))
