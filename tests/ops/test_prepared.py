"""mi_kernels.prepare: the bits of multi_lerp, what a call skips, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mi_kernels
from mi_kernels import ArgumentError
from mi_kernels.ops.prepared import Prepared

LAMS = (0.0, 1.0, 0.3, 0.8, -0.7, 1.6)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def tensors(count: int, seed: int, dtypes: Any = (torch.bfloat16,)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(3 * i + 1, 5, generator=generator).to(dtypes[(i + seed) % len(dtypes)]) for i in range(count)
    ]  # fmt: skip


def bits(values: list[Any]) -> list[bytes]:
    return [
        np.asarray(x).tobytes() if isinstance(x, np.ndarray) else x.view(torch.uint8).numpy().tobytes() for x in values
    ]


def poison(values: list[torch.Tensor]) -> None:
    """Changes tensors behind torch's back: it does not count writes through `.data`."""
    for x in values:
        x.data.fill_(7)


def written(outs: list[torch.Tensor], pairs: Prepared[torch.Tensor], *arguments: Any, **named: Any) -> list[int]:
    """The outputs that a call computes."""
    kept = [x.clone() for x in outs]
    poison(outs)
    pairs.lerp(*arguments, **named)
    found = [i for i, x in enumerate(outs) if not (x == 7).all()]
    for x, old in zip(outs, kept):
        if (x == 7).all():
            x.data.copy_(old)
    return found


@pytest.mark.parametrize("dtypes", [DTYPES[:1], DTYPES], ids=["one dtype", "mixed"])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_the_bits_are_those_of_multi_lerp(dtypes: Any, backend: str | None) -> None:
    a, b, outs = (tensors(7, seed, dtypes) for seed in range(3))
    pairs = mi_kernels.prepare(a, b, outs, backend=backend)
    for lam in (*LAMS, [LAMS[i % 6] for i in range(7)], [LAMS[-i % 6] for i in range(7)]):
        expected = mi_kernels.multi_lerp(a, b, lam, [x.clone() for x in outs])
        found = pairs.lerp(lam)
        assert all(x is y for x, y in zip(found, outs))
        assert bits(found) == bits(expected), lam


def test_numpy_arrays_and_tensors_beside_each_other() -> None:
    a: list[Any] = [np.float32([1, 2]), torch.tensor([1.0, 2.0])]
    b: list[Any] = [np.float32([3, 3]), torch.tensor([3.0, 3.0])]
    pairs = mi_kernels.prepare(a, b)
    assert [x.tolist() for x in pairs.lerp(0.5)] == [[2.0, 2.5], [2.0, 2.5]]
    a[0][:] = 3  # nobody counts writes to an array, so it is never skipped
    assert [x.tolist() for x in pairs.lerp(0.5)] == [[3.0, 3.0], [2.0, 2.5]]


def test_no_pairs() -> None:
    pairs = mi_kernels.prepare([], [], [])
    assert (pairs.lerp(0.5), len(pairs)) == ([], 0)


def test_a_call_skips_what_is_there() -> None:
    a, b, outs = (tensors(4, seed) for seed in range(3))
    pairs = mi_kernels.prepare(a, b, outs)
    assert written(outs, pairs, 0.5) == [0, 1, 2, 3]
    assert written(outs, pairs, 0.5) == []
    assert written(outs, pairs, [0.5, 0.6, 0.5, 0.7]) == [1, 3]
    assert written(outs, pairs, [0.4, 0.6, 0.5, 0.7]) == [0]
    assert written(outs, pairs, [0.4, 0.6, 0.5, 0.7], every=True) == [0, 1, 2, 3]
    assert written(outs, pairs, [0.4, 0.6, 0.5, 0.7]) == []


@pytest.mark.parametrize("which", ["a", "b", "outs"])
def test_a_tensor_that_somebody_wrote_is_computed_again(which: str) -> None:
    a, b, outs = (tensors(3, seed) for seed in range(3))
    pairs = mi_kernels.prepare(a, b, outs)
    pairs.lerp(0.5)
    {"a": a, "b": b, "outs": outs}[which][1].add_(1)
    expected = mi_kernels.multi_lerp(a, b, 0.5)
    assert bits(pairs.lerp(0.5)) == bits(expected)
    assert written(outs, pairs, 0.5) == []


@pytest.mark.parametrize("write", ["lerp", "multi_lerp", "another plan"])
def test_what_mi_kernels_writes_is_seen(write: str) -> None:
    a, b, outs = (tensors(3, seed) for seed in range(3))
    pairs = mi_kernels.prepare(a, b, outs)
    expected = bits(pairs.lerp(0.5))
    if write == "lerp":
        mi_kernels.lerp(a[2], b[2], 0.1, out=outs[2])
    elif write == "multi_lerp":
        mi_kernels.multi_lerp(a, b, 0.1, outs)
    else:
        mi_kernels.prepare(a, b, outs).lerp(0.1)
    assert bits(outs) != expected
    assert bits(pairs.lerp(0.5)) == expected


def test_pairs_in_place_are_never_skipped() -> None:
    a, b = tensors(2, 0, DTYPES[2:]), tensors(2, 1, DTYPES[2:])
    pairs = mi_kernels.prepare(a, b, a)
    expected = mi_kernels.multi_lerp(mi_kernels.multi_lerp(a, b, 0.5), b, 0.5)
    pairs.lerp(0.5)
    assert bits(pairs.lerp(0.5)) == bits(expected)


def test_inference_tensors_are_never_skipped() -> None:
    with torch.inference_mode():
        a, b, outs = (tensors(2, seed) for seed in range(3))
    pairs = mi_kernels.prepare(a, b, outs)
    pairs.lerp(0.5)
    assert written(outs, pairs, 0.5) == [0, 1]


def test_outputs_that_share_a_counter() -> None:
    """Views of one tensor share torch's counter: each write to one counts for all."""
    a, b, whole = tensors(2, 0), tensors(2, 1), torch.zeros(25, dtype=torch.bfloat16)
    outs = [whole[:5].view(1, 5), whole[5:].view(4, 5)]
    pairs = mi_kernels.prepare(a, b, outs)
    for lam in (0.5, 0.5, [0.5, 0.6], [0.5, 0.6], [0.4, 0.6]):
        assert bits(pairs.lerp(lam)) == bits(mi_kernels.multi_lerp(a, b, lam))
        whole += 1


def moved(x: torch.Tensor) -> None:
    x.data = x.data.clone()


def resized(x: torch.Tensor) -> None:
    x.resize_(2, 5)


def retyped(x: torch.Tensor) -> None:
    x.data = x.data.view(torch.float16)


def freed(x: torch.Tensor) -> None:
    x.untyped_storage().resize_(0)


@pytest.mark.parametrize("change", [moved, resized, retyped, freed])
@pytest.mark.parametrize("which", ["a", "b", "outs"])
def test_a_tensor_that_moved_is_an_error(which: str, change: Any) -> None:
    a, b, outs = (tensors(3, seed) for seed in range(3))
    pairs = mi_kernels.prepare(a, b, outs)
    pairs.lerp(0.5)
    change({"a": a, "b": b, "outs": outs}[which][2])
    before = bits(outs[:2])
    with pytest.raises(ArgumentError, match=rf"{which}\[2\] has other memory.*\nCall prepare again"):
        pairs.lerp(0.6)
    assert bits(outs[:2]) == before


def test_an_array_that_moved_is_an_error() -> None:
    a, b = [np.zeros(4, np.float32)], [np.ones(4, np.float32)]
    pairs = mi_kernels.prepare(a, b)
    a[0].resize(4000, refcheck=False)
    with pytest.raises(ArgumentError, match=r"a\[0\] has other memory"):
        pairs.lerp(0.5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"b": tensors(1, 1)}, "b has 1 tensors, a has 2"),
        ({"outs": tensors(3, 1)}, "outs has 3 tensors, a has 2"),
        ({"b": [torch.zeros(5), torch.zeros(4, 5)]}, r"b\[0\] has shape \(5,\)"),
        ({"b": [x.double() for x in tensors(2, 1)]}, r"b\[0\] has dtype torch.float64"),
        ({"outs": [x.requires_grad_() for x in tensors(2, 1)]}, r"outs\[0\] requires grad"),
        ({"outs": [torch.zeros(5, 1).t(), torch.zeros(5, 4).t()]}, r"outs\[1\] is not contiguous"),
        ({"backend": "cuda"}, "backend 'cuda' requested"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_refusals_at_the_start(change: dict[str, Any], text: str) -> None:
    arguments = {"a": tensors(2, 0), "b": tensors(2, 1), "outs": tensors(2, 2), **change}
    with pytest.raises(mi_kernels.MIKernelsError, match=text):
        mi_kernels.prepare(**arguments)


def test_outputs_that_overlap_are_refused() -> None:
    whole = torch.zeros(20)
    with pytest.raises(ArgumentError, match=r"outs\[1\] overlaps out"):
        mi_kernels.prepare([whole[:8]] * 2, [whole[12:]] * 2, [whole[:8], whole[4:12]])


@pytest.mark.parametrize(
    "lam", [float("nan"), float("inf"), 1e39, "x", None, [0.5], [0.5, float("nan")], [0.5, 10**400]]
)
def test_a_lam_that_is_none_changes_nothing(lam: Any) -> None:
    a, b, outs = (tensors(2, seed) for seed in range(3))
    pairs = mi_kernels.prepare(a, b, outs)
    before = bits(outs)
    with pytest.raises(ArgumentError, match="lam"):
        pairs.lerp(lam)
    assert bits(outs) == before


def test_a_failed_call_is_not_taken_for_done(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, outs = (tensors(3, seed) for seed in range(3))
    pairs = mi_kernels.prepare(a, b, outs)
    pairs.lerp(0.5)

    def fail(weights: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(pairs, "_run", fail)
        with pytest.raises(RuntimeError):
            pairs.lerp(0.6)
    assert written(outs, pairs, 0.5) == [0, 1, 2]


def test_autograd_sees_the_write() -> None:
    """A graph that saved an output must not use its new value in silence."""
    x, out = torch.ones(3, requires_grad=True), torch.full((3,), 2.0)
    for write in (
        lambda: mi_kernels.lerp(out, out + 1, 0.5, out=out),
        lambda: mi_kernels.multi_lerp([out, out[:0]], [out + 1, out[:0]], 0.5, [out, torch.zeros(0)]),
        lambda: mi_kernels.prepare([out + 1], [out + 2], [out]).lerp(0.5),
    ):
        loss = (x * out).sum()
        write()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_tracing_is_refused() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(), pytest.raises(ArgumentError, match="tracing"):
        mi_kernels.prepare([torch.zeros(2)], [torch.zeros(2)])


def test_subclasses_and_parameters_are_taken() -> None:
    class Named(torch.Tensor):
        pass

    a = [torch.ones(3).as_subclass(Named), torch.nn.Parameter(torch.ones(2), requires_grad=False)]
    pairs = mi_kernels.prepare(a, [torch.zeros(3), torch.zeros(2)])
    assert [x.tolist() for x in pairs.lerp(0.25)] == [[0.75] * 3, [0.75] * 2]
