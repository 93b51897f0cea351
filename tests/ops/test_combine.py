"""mi_kernels.combine: the bits of the reference for every method and kind of array, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import mi_kernels
from mi_kernels import ArgumentError, DTypeError, combine, merge_checkpoint
from mi_kernels.methods.registry import METHODS
from mi_kernels.ops import arrays, combining

from ..support.bits import BF16, F16, F32, FORMATS, Bits, Format, to_bits, to_torch
from ..support.formulas import moderate_bits
from ..support.methods import Case, drawn_cases, merged, recipe
from ..support.models import bits, load, save

CASES = drawn_cases()
KINDS: dict[str, tuple[Format, Any]] = {
    "numpy float32": (F32, lambda x: x.view(np.float32)),
    "numpy float16": (F16, lambda x: x.view(np.float16)),
    "numpy uint16": (BF16, lambda x: x.copy()),
    "ml_dtypes bfloat16": (BF16, lambda x: x.view(ml_dtypes.bfloat16)),
    "torch float32": (F32, lambda x: to_torch(F32, x)),
    "torch float16": (F16, lambda x: to_torch(F16, x)),
    "torch bfloat16": (BF16, lambda x: to_torch(BF16, x)),
}
NAME = "model.layers.0.mlp.up_proj.weight"


def bits_of(x: Any, fmt: Format) -> Bits:
    if isinstance(x, torch.Tensor):
        return to_bits(x.reshape(-1), fmt)
    return np.ascontiguousarray(x).reshape(-1).view(fmt.uint)


def wide(x: Bits, fmt: Format) -> np.ndarray:
    return to_torch(fmt, x).float().numpy()


def expected(case: Case, x: list[Bits], formats: list[Format], out: Format) -> Bits:
    method, with_base, _, parameters = case
    result = merged(method, NAME, [wide(b, f) for b, f in zip(x, formats)], with_base, parameters)
    return to_bits(torch.from_numpy(np.array(result, np.float32)).to(out.dtype), out)


def call(case: Case, arrays: list[Any], **options: Any) -> Any:
    method, with_base, _, parameters = case
    base = {"base": arrays[0]} if with_base else {}
    return combine(arrays[with_base:], method, **base, name=NAME, **parameters, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_every_method_equals_the_reference(case: str, kind: str) -> None:
    given, (fmt, make) = CASES[case], KINDS[kind]
    count = given[1] + given[2]
    x = [moderate_bits(fmt, 77 * 31, seed) for seed in range(count)]
    want = expected(given, x, [fmt] * count, fmt)
    arrays = [make(b).reshape(77, 31) for b in x]
    result = call(given, arrays)
    assert type(result) is type(arrays[0])
    assert result.dtype == arrays[0].dtype
    assert tuple(result.shape) == (77, 31)
    np.testing.assert_array_equal(bits_of(result, fmt), want)
    assert [bits_of(a, fmt).tolist() for a in arrays] == [b.tolist() for b in x], "an input changed"
    assert call(given, arrays, out=arrays[-1], threads=1) is arrays[-1]
    np.testing.assert_array_equal(bits_of(arrays[-1], fmt), want)


@pytest.mark.parametrize("out", FORMATS, ids=[f.name for f in FORMATS])
@pytest.mark.parametrize("case", [name for name in CASES if name.endswith("drawn 1")])
def test_mixed_dtypes_and_an_output_of_any(case: str, out: Format) -> None:
    given = CASES[case]
    formats = [FORMATS[i % 3] for i in range(given[1] + given[2])]
    x = [moderate_bits(fmt, 5001, seed) for seed, fmt in enumerate(formats)]
    want = expected(given, x, formats, out)
    name = str(out.dtype).removeprefix("torch.")
    tensors = [to_torch(fmt, b) for fmt, b in zip(formats, x)]
    for dtype in (name, out.dtype):
        np.testing.assert_array_equal(bits_of(call(given, tensors, dtype=dtype), out), want)
    arrays = [b if fmt is BF16 else b.view({F32: np.float32, F16: np.float16}[fmt]) for fmt, b in zip(formats, x)]
    result = call(given, arrays, dtype=name)
    assert result.dtype == {F32: np.float32, F16: np.float16, BF16: np.uint16}[out]
    np.testing.assert_array_equal(bits_of(result, out), want)


def test_bfloat16_of_numpy_is_made_as_the_others_are() -> None:
    a, b = np.ones(3, np.float32), np.ones(3, ml_dtypes.bfloat16)
    assert combine([a, b], "average", dtype="bfloat16").dtype == ml_dtypes.bfloat16
    assert combine([a, b], "average", dtype=ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16
    assert combine([a, a], "average", dtype="bfloat16").dtype == np.uint16
    assert combine([a, a], "average", dtype=np.float16).dtype == np.float16


@pytest.mark.parametrize("case", [name for name in CASES if name.endswith("drawn 0")])
def test_the_bits_of_merge_checkpoint(tmp_path: Path, case: str) -> None:
    given = CASES[case]
    count = given[1] + given[2]
    tensors = [to_torch(BF16, moderate_bits(BF16, 5001, seed)) for seed in range(count)]
    paths = [str(save(tmp_path / f"m{i}", {NAME: t})) for i, t in enumerate(tensors)]
    merge_checkpoint(recipe(given, paths), tmp_path / "out", progress=False)
    assert bits(call(given, tensors)) == bits(load(tmp_path / "out")[NAME])


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (1,), (3, 1, 2)])
@pytest.mark.parametrize("case", [name for name in CASES if name.endswith("drawn 0")])
def test_shapes(case: str, shape: tuple[int, ...]) -> None:
    given = CASES[case]
    arrays = [np.full(shape, seed + 1, np.float32) for seed in range(given[1] + given[2])]
    assert call(given, arrays).shape == shape


def test_one_number_for_all_tensors_or_one_each() -> None:
    a, b = np.float32([1]), np.float32([5])
    assert combine([a, b], "linear", weight=2, normalize=False).tolist() == [12]
    assert combine([a, b], "linear", weight=np.float64([2, 1]), normalize=0).tolist() == [7]
    assert combine([a, b], "linear", weight=None).tolist() == [3]  # as if it were not given


def test_nan_payloads_and_minus_0_survive_where_a_weight_is_1() -> None:
    a = np.uint32([0x7FC12345, 0x80000000, 0xFF800001]).view(np.float32)
    for weights, place in (((1, 0), 0), ((0, 1), 1)):
        pair = [np.ones(3, np.float32)] * 2
        pair[place] = a
        assert combine(pair, "linear", weight=weights).view(np.uint32).tolist() == a.view(np.uint32).tolist()


@contextmanager
def refused(error: type[mi_kernels.MIKernelsError], *named: str) -> Iterator[None]:
    """Expects `error`, with every one of `named` in it, in two lines."""
    with pytest.raises(error) as caught:
        yield
    for name in named:
        assert name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


PAIR = [ones(4), ones(4)]


def test_unknown_methods_and_parameters() -> None:
    with refused(ArgumentError, "method 'tie' is unknown", "Did you mean ties?"):
        combine(PAIR, "tie", base=ones(4))
    with refused(ArgumentError, "method ['ties'] is unknown"):
        combine(PAIR, ["ties"])  # type: ignore[arg-type]
    with refused(ArgumentError, "lerp", "mi_kernels.lerp(a, b, lam)"):
        combine(PAIR, "lerp", lam=0.5)
    with refused(ArgumentError, "linear does not use density", "weight, normalize"):
        combine(PAIR, "linear", density=0.2)
    with refused(ArgumentError, "average does not use weight", "no parameters"):
        combine(PAIR, "average", weight=1)
    with refused(ArgumentError, "slerp needs lam", "0 is the first model"):
        combine(PAIR, "slerp")


@pytest.mark.parametrize("wrong", ["1", float("nan"), float("inf"), 1e39, 10**400, [1, 2, 3], [1, "x"], [[1], 1]])
def test_weights_that_are_not_numbers_or_not_one_for_each(wrong: Any) -> None:
    with refused(ArgumentError, "weight"):
        combine(PAIR, "linear", weight=wrong)


def test_values_out_of_range() -> None:
    with refused(ArgumentError, "w: lam is 1.5, which slerp cannot use", "from 0 to 1"):
        combine(PAIR, "slerp", lam=1.5, name="w")
    with refused(ArgumentError, "density is 0", "more than 0"):
        combine(PAIR, "dare_ties", base=ones(4), density=[1, 0])
    with refused(ArgumentError, "normalize is 0.5", "true or false"):
        combine(PAIR, "linear", normalize=0.5)
    with refused(ArgumentError, "seed is 1.5", "whole number"):
        combine(PAIR, "dare_ties", base=ones(4), seed=1.5)
    with refused(ArgumentError, "weights sum to 0"):
        combine(PAIR, "linear", weight=[1, -1])


@pytest.mark.parametrize("method", METHODS)
def test_models_that_do_not_fit_the_method(method: str) -> None:
    spec = METHODS[method]
    with refused(ArgumentError, f"{method} "):
        combine([ones(4)] * 17, method, **({"base": ones(4)} if spec.base == "required" else {}))
    with refused(ArgumentError, f"{method} takes"):
        combine([], method, **({"base": ones(4)} if spec.base == "required" else {}))
    if spec.base != "optional":
        with refused(ArgumentError, "base"):
            combine([ones(4)] * spec.least, method, **({"base": ones(4)} if spec.base == "none" else {}))


def test_arrays_that_cannot_be_taken() -> None:
    with refused(ArgumentError, "tensors[1] has shape (5,), tensors[0] has (4,)"):
        combine([ones(4), ones(5)], "average")
    with refused(ArgumentError, "tensors[0] has shape (5,), base has (4,)"):
        combine([ones(5)], "ties", base=ones(4))
    with refused(ArgumentError, "out has shape (2, 2)"):
        combine(PAIR, "average", out=ones(2, 2))
    with refused(DTypeError, "tensors[1] has dtype float64"):
        combine([ones(4), np.ones(4)], "average")
    with refused(DTypeError, "tensors[0] is a list"):
        combine([[1.0] * 4, ones(4)], "average")
    with refused(DTypeError, "out has dtype int32"):
        combine(PAIR, "average", out=np.ones(4, np.int32))
    with refused(ArgumentError, "tensors[1] is not contiguous"):
        combine([ones(4), ones(8)[::2]], "average")
    with refused(ArgumentError, "tensors[0] requires grad", "tensors[0].detach()"):
        combine([torch.ones(4, requires_grad=True)] * 2, "average")
    with refused(DTypeError, "dtype is 'int8'", "bfloat16"):
        combine(PAIR, "average", dtype="int8")
    with refused(ArgumentError, "threads is 0"):
        combine([ones(4)] * 3, "average", threads=0)
    locked = ones(4)
    locked.flags.writeable = False
    with refused(ArgumentError, "out is read-only"):
        combine(PAIR, "average", out=locked)
    with refused(ArgumentError, "tensors[1] is on meta, tensors[0] on cpu"):
        combine([torch.ones(4), torch.ones(4, device="meta")], "average")


@pytest.mark.parametrize("method", ["average", "linear"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_output_that_overlaps_without_being_it(method: str, place: int) -> None:
    memory = ones(9)
    tensors = [ones(8) for _ in range(3)]
    tensors[place] = memory[:8]
    with refused(ArgumentError, f"out overlaps tensors[{place}]"):
        combine(tensors, method, out=memory[1:])


def test_nan_has_no_angle() -> None:
    with refused(ArgumentError, "the tensor: holds NaN or infinity"):
        combine([ones(4), np.float32([1, np.nan, 1, 1])], "slerp", lam=0.5)


def test_tracing_is_refused() -> None:
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.ones(4))
        with refused(ArgumentError, "torch is tracing", "torch.compile"):
            combine([fake, fake], "average")


def test_without_torch() -> None:
    script = """
import sys
sys.modules["torch"] = None
import mi_kernels, numpy as np
a, b = np.float32([1, 2]), np.float32([3, 5])
print(mi_kernels.combine([a, b], "linear", weight=[1, 3]).tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[2.5, 4.25]\n", 0), done.stderr


class OnDevice:
    """What `combine` uses of a CUDA tensor, over CPU memory: a machine without a GPU runs the way there and back."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.nbytes = tensor, tensor.nbytes

    def data_ptr(self) -> int:
        return self.tensor.data_ptr()

    def cpu(self) -> torch.Tensor:
        return self.tensor.clone()

    def view(self, size: int) -> torch.Tensor:
        return self.tensor.view(size)


@pytest.mark.parametrize("fmt", FORMATS, ids=[f.name for f in FORMATS])
@pytest.mark.parametrize("case", [name for name in CASES if name.endswith("drawn 1")])
def test_tensors_of_a_gpu_are_merged_on_the_cpu(case: str, fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    given = CASES[case]
    x = [moderate_bits(fmt, 5001, seed) for seed in range(given[1] + given[2])]
    tensors = [to_torch(fmt, b) for b in x]
    out = torch.empty_like(tensors[0])
    there = {id(t) for t in (*tensors, out)}

    def as_array(value: Any, name: str, writable: bool = False) -> Any:
        array = arrays.as_array(value, name, writable)
        return array._replace(buffer=OnDevice(value), device="cuda:0") if id(value) in there else array

    monkeypatch.setattr(combining, "as_array", as_array)
    assert call(given, tensors, out=out) is out
    np.testing.assert_array_equal(bits_of(out, fmt), expected(given, x, [fmt] * len(x), fmt))
