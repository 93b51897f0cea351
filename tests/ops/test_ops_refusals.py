"""What mi_kernels.lerp and multi_lerp refuse: every error names the argument and says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import mi_kernels
from mi_kernels import ArgumentError, BackendError, DTypeError, lerp, multi_lerp


@contextmanager
def refused(error: type[mi_kernels.MIKernelsError], *named: str) -> Iterator[None]:
    """Expects `error`, with every one of `named` in the problem, and a remedy."""
    with pytest.raises(error) as caught:
        yield
    for name in named:
        assert name in caught.value.problem
    assert caught.value.remedy
    assert len(str(caught.value).splitlines()) == 2


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("at", ["a", "b", "out"])
@pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
def test_non_contiguous_arrays(at: str, library: Any) -> None:
    arrays = {name: library.ones((4, 4), dtype=library.float32) for name in ("a", "b", "out")}
    arrays[at] = arrays[at].T[:2]
    arrays = {name: x if name == at else x[:2] for name, x in arrays.items()}
    with refused(ArgumentError, f"{at} is not contiguous"):
        lerp(arrays["a"], arrays["b"], 0.5, arrays["out"])


def test_every_other_element_is_not_contiguous() -> None:
    with refused(ArgumentError, "b is not contiguous"):
        lerp(torch.ones(4), torch.ones(8)[::2], 0.5)


@pytest.mark.parametrize("make", [ones, torch.ones], ids=["numpy", "torch"])
@pytest.mark.parametrize("other", ["a", "b"])
def test_an_output_that_overlaps_an_input_without_being_it(make: Any, other: str) -> None:
    memory = make(9)
    arrays = {"a": make(8), "b": make(8), other: memory[:8]}
    with refused(ArgumentError, f"out overlaps {other}"):
        lerp(arrays["a"], arrays["b"], 0.5, memory[1:])


def test_an_output_that_is_an_input_reshaped_is_in_place() -> None:
    memory = np.zeros(6, np.float32)
    lerp(memory.reshape(2, 3), ones(2, 3), 0.25, memory.reshape(2, 3))
    assert memory.tolist() == [0.25] * 6


def test_an_output_that_is_an_input_of_another_width() -> None:
    memory = ones(4)
    with refused(ArgumentError, "out overlaps a"):
        lerp(memory.view(np.float16)[:4], ones(4), 0.5, memory)


def test_an_output_that_is_another_pairs_input() -> None:
    a = [ones(4), ones(4)]
    with refused(ArgumentError, "outs[0] overlaps a[1]"):
        multi_lerp(a, [ones(4), ones(4)], 0.5, [a[1], ones(4)])


def test_outputs_that_overlap_each_other() -> None:
    memory = ones(6)
    with refused(ArgumentError, "outs[1] overlaps outs[0]"):
        multi_lerp([ones(4)] * 2, [ones(4)] * 2, 0.5, [memory[:4], memory[2:]])


def test_one_output_given_twice() -> None:
    out = ones(4)
    with refused(ArgumentError, "outs[", "overlaps outs["):
        multi_lerp([ones(4)] * 2, [ones(4)] * 2, 0.5, [out, out])


@pytest.mark.parametrize("at", ["a", "b", "out"])
@pytest.mark.parametrize(
    "wrong",
    [
        np.ones(4, np.float64),
        np.ones(4, np.int32),
        np.ones(4, np.int16),
        np.ones(4, bool),
        np.ones(4, ">f4"),
        np.ones(4, ml_dtypes.float8_e4m3fn),
        torch.ones(4, dtype=torch.float64),
        torch.ones(4, dtype=torch.int16),
        torch.ones(4, dtype=torch.complex64),
        torch.ones(4).to_sparse(),
    ],
    ids=lambda x: str(x.dtype),
)
def test_other_dtypes(at: str, wrong: Any) -> None:
    arrays = {"a": ones(4), "b": ones(4), "out": ones(4), at: wrong}
    with refused(DTypeError, f"{at} has dtype {wrong.dtype}"):
        lerp(arrays["a"], arrays["b"], 0.5, arrays["out"])


@pytest.mark.parametrize("at", ["a", "b", "out"])
@pytest.mark.parametrize("wrong", [[1.0] * 4, 1.0, "1", b"1234"], ids=lambda x: type(x).__name__)
def test_other_types(at: str, wrong: Any) -> None:
    arrays = {"a": ones(4), "b": ones(4), "out": ones(4), at: wrong}
    with refused(DTypeError, f"{at} is a {type(wrong).__name__}"):
        lerp(arrays["a"], arrays["b"], 0.5, arrays["out"])


def test_no_array_at_all() -> None:
    with refused(DTypeError, "b is a NoneType"):
        lerp(ones(4), None, 0.5)


def test_shapes_of_the_inputs_differ() -> None:
    with refused(ArgumentError, "b has shape (4,)", "a has (1, 4)"):
        lerp(ones(1, 4), ones(4), 0.5)


def test_shape_of_the_output_differs() -> None:
    with refused(ArgumentError, "out has shape (5,)", "a has (4,)"):
        lerp(ones(4), ones(4), 0.5, ones(5))


def test_shapes_in_a_list_name_the_pair() -> None:
    with refused(ArgumentError, "b[1] has shape (5,)", "a[1] has (4,)"):
        multi_lerp([ones(4), ones(4)], [ones(4), ones(5)], 0.5)


def test_dtypes_in_a_list_name_the_pair() -> None:
    with refused(DTypeError, "outs[1] has dtype int32"):
        multi_lerp([ones(4)] * 2, [ones(4)] * 2, 0.5, [ones(4), np.ones(4, np.int32)])


def test_fewer_b_than_a() -> None:
    with refused(ArgumentError, "b has 1 tensors, a has 2"):
        multi_lerp([ones(4), ones(4)], [ones(4)], 0.5)


def test_more_outs_than_a() -> None:
    with refused(ArgumentError, "outs has 3 tensors, a has 2"):
        multi_lerp([ones(4)] * 2, [ones(4)] * 2, 0.5, [ones(4), ones(4), ones(4)])


def test_fewer_lams_than_pairs() -> None:
    with refused(ArgumentError, "lam has 1 values for 2 pairs"):
        multi_lerp([ones(4)] * 2, [ones(4)] * 2, [0.5])


@pytest.mark.parametrize("at", ["a", "b", "out"])
def test_tensors_that_require_grad(at: str) -> None:
    arrays = {name: torch.ones(4, requires_grad=name == at) for name in ("a", "b", "out")}
    with refused(ArgumentError, f"{at} requires grad"):
        lerp(arrays["a"], arrays["b"], 0.5, arrays["out"])


def test_parameters_require_grad_until_detached() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    with refused(ArgumentError, "a requires grad"):
        lerp(parameter, torch.ones(4), 0.25)
    assert lerp(parameter.detach(), torch.ones(4), 0.25).tolist() == [0.25] * 4


def test_lazily_negated_tensors() -> None:
    negated = torch.complex(torch.ones(1), torch.ones(1)).conj().imag
    assert negated.is_neg()
    with refused(ArgumentError, "a is a lazy view"):
        lerp(negated, torch.ones(1), 0.5)


def test_read_only_outputs() -> None:
    out = ones(4)
    out.flags.writeable = False
    with refused(ArgumentError, "out is read-only"):
        lerp(ones(4), ones(4), 0.5, out)


@pytest.mark.parametrize("lam", [float("nan"), float("inf"), -float("inf"), 1e39, -1e39])
def test_lam_that_is_not_finite(lam: float) -> None:
    """In float32, which is what the arithmetic sees."""
    with refused(ArgumentError, "lam is"):
        lerp(ones(4), ones(4), lam)


def test_lam_beyond_every_float() -> None:
    with refused(ArgumentError, "lam is"):
        lerp(ones(4), ones(4), 10**400)


@pytest.mark.parametrize("lam", ["abc", "", None, 1j, object()], ids=repr)
def test_lam_that_is_not_a_number(lam: Any) -> None:
    with refused(ArgumentError, "lam is", "not a number"):
        lerp(ones(4), ones(4), lam)


def test_one_bad_lam_among_several() -> None:
    with refused(ArgumentError, "lam is nan"):
        multi_lerp([ones(4)] * 2, [ones(4)] * 2, [0.5, float("nan")])


def test_an_unknown_backend() -> None:
    with refused(BackendError, "backend 'tpu'"):
        lerp(ones(4), ones(4), 0.5, backend="tpu")
    with refused(BackendError, "backend is ['cpu']"):
        lerp(ones(4), ones(4), 0.5, backend=["cpu"])


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two"])
def test_threads_that_are_not_a_count(threads: Any) -> None:
    with refused(ArgumentError, "threads is"):
        lerp(ones(4), ones(4), 0.5, threads=threads)


def test_devices_that_differ() -> None:
    with refused(ArgumentError, "b is on meta", "a on cpu"):
        lerp(torch.ones(4), torch.ones(4, device="meta"), 0.5)


def test_an_output_on_another_device() -> None:
    with refused(ArgumentError, "out is on meta", "a on cpu"):
        lerp(torch.ones(4), torch.ones(4), 0.5, torch.ones(4, device="meta"))


def test_pairs_on_different_devices() -> None:
    meta = torch.ones(4, device="meta")
    with refused(ArgumentError, "a[1] is on meta", "a[0] on cpu"):
        multi_lerp([torch.ones(4), meta], [torch.ones(4), meta], 0.5)


def test_a_device_that_no_backend_serves() -> None:
    meta = torch.ones(4, device="meta")
    with refused(BackendError, "'meta'"):
        lerp(meta, meta, 0.5)


@pytest.mark.parametrize(
    ("error", "builtin"), [(ArgumentError, ValueError), (DTypeError, TypeError), (BackendError, RuntimeError)]
)
def test_errors_are_also_the_builtin_ones(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)
    assert issubclass(error, mi_kernels.MIKernelsError)


def test_a_refused_call_writes_nothing() -> None:
    out = ones(4) * 7
    with refused(ArgumentError, "b[1] has shape"):
        multi_lerp([ones(4), ones(4)], [ones(4), ones(5)], 0.5, [out, ones(4)])
    assert out.tolist() == [7] * 4
