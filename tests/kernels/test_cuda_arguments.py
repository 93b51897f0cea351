"""The checks before a GPU backend runs. They need only tensors and addresses, and no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mi_kernels
from mi_kernels import _cpu
from mi_kernels.backends import dispatch
from mi_kernels.ops import eager
from mi_kernels.ops.overlap import find_overlap

torch = pytest.importorskip("torch")

ITEM_SIZES = (2, 2, 4)


@given(st.data())
def test_overlaps_agree_with_those_of_the_cpu_kernels(data: st.DataObject) -> None:
    """Spans in a small buffer often overlap. Both checks must agree, and the reported overlap must exist."""
    buffer = np.zeros(64, np.uint8)
    base = buffer.ctypes.data
    spans, addresses, sizes = [], [], []
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(0, 5))
        codes = [data.draw(st.integers(0, 2)) for _ in range(3)]
        row = [ITEM_SIZES[code] * count for code in codes]
        at = [data.draw(st.integers(0, 64 - size)) for size in row]
        if data.draw(st.booleans()):
            at[1] = at[0] if at[0] + row[1] <= 64 else at[1]
        spans.append((buffer, at[0], buffer, at[1], buffer, at[2], count, 0.5, *codes))
        addresses.append([base + offset for offset in at])
        sizes.append(row)
    found = find_overlap(np.array(addresses, np.int64), np.array(sizes, np.int64))
    assert (found is None) == (_cpu.find_overlap(spans) is None)
    if found is not None:
        out, name, other = found
        column = {"out": 0, "a": 1, "b": 2}[name]
        begin, end = addresses[out][0], addresses[out][0] + sizes[out][0]
        assert max(begin, addresses[other][column]) < min(end, addresses[other][column] + sizes[other][column])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sends CPU tensors through the code for CUDA tensors, to the torch reference."""
    monkeypatch.setattr(dispatch, "backend_for", lambda backend, device: "reference")

    def call(a: list[Any], b: list[Any], outs: list[Any] | None = None, single: bool = True) -> list[Any]:
        return eager._run_cuda(a, b, [0.8] * len(a), outs, None, eager.names(single))

    return call


def test_views_and_in_place_work(run: Any) -> None:
    room = torch.randn(200).bfloat16()
    a, b = room[3:93], torch.randn(90).half()
    wanted = mi_kernels.lerp(a, b, 0.8)
    assert torch.equal(run([a], [b])[0], wanted)
    assert run([a], [b], [a])[0] is a
    assert torch.equal(a, wanted)


@pytest.mark.parametrize(
    ("a", "b", "out", "text"),
    [
        (torch.zeros(4, 6), torch.zeros(6, 4).t(), None, "b is not contiguous\nPass b.contiguous()"),
        (torch.zeros(4), torch.zeros(4), torch.zeros(8)[::2], "out is not contiguous"),
        (torch.zeros(4, requires_grad=True), torch.zeros(4), None, "a requires grad.*\nPass a.detach()"),
        (torch.zeros(4), torch.zeros(4, device="meta"), None, "b is on meta, a on cpu\nMove them"),
        (torch.zeros(4), torch.zeros(5), None, r"b has shape \(5,\), a has \(4,\)"),
        (torch.zeros(4), np.zeros(4, np.float32), None, "b is a ndarray"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32), None, "b has dtype torch.int32"),
    ],
)
def test_refusals_name_the_argument(run: Any, a: Any, b: Any, out: Any, text: str) -> None:
    with pytest.raises(mi_kernels.MIKernelsError, match=text):
        run([a], [b], None if out is None else [out])


def test_elements_across_their_own_boundary_are_refused(run: Any) -> None:
    shifted = torch.frombuffer(bytearray(41), dtype=torch.float32, offset=1)
    assert shifted.data_ptr() % 4 == 1
    with pytest.raises(mi_kernels.ArgumentError, match=r"b starts at address .* 4-byte elements\nPass b.clone"):
        run([torch.zeros(10)], [shifted])
    run([torch.zeros(0)], [shifted[:0]])


def test_refusals_name_the_pair(run: Any) -> None:
    x, y = torch.zeros(8), torch.zeros(8)
    with pytest.raises(mi_kernels.ArgumentError, match=r"a\[1\] is on meta, a\[0\] on cpu"):
        run([x, x.to("meta")], [y, y.to("meta")], single=False)
    with pytest.raises(mi_kernels.ArgumentError, match=r"outs\[0\] overlaps b\[1\] without being it"):
        run([x[:4], x[4:]], [x[:4], y[2:6]], [y[:4], torch.zeros(4)], single=False)
    with pytest.raises(mi_kernels.ArgumentError, match=r"outs\[1\] overlaps out"):
        run([x, x], [x, x], [y, y], single=False)


def test_a_tensor_of_another_device_is_not_allocated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path for CPU tensors must notice first that it does not apply."""
    from mi_kernels.ops import pair

    def no_memory(x: Any) -> Any:
        raise AssertionError("allocated")

    monkeypatch.setattr(pair, "empty_like", no_memory)
    x = torch.zeros(4, device="meta")
    assert pair.quick_lerp(x, x, 0.5, None, None, None) is None
