"""lerp and multi_lerp under torch.compile and on FakeTensors: one custom op, with the same refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import mi_kernels

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from mi_kernels.ops import custom  # noqa: E402


def created(a: Any, b: Any) -> Any:
    return mi_kernels.lerp(a * 2, b, 0.8) + 1


def into(a: Any, b: Any) -> Any:
    out = torch.empty_like(a)
    mi_kernels.lerp(a, b, 0.3, out, backend="reference")
    return out + 1


def in_place(a: Any, b: Any) -> Any:
    mi_kernels.lerp(a, b, 0.25, a)
    return a * 2


def many(a: Any, b: Any) -> Any:
    x, y = mi_kernels.multi_lerp([a, b], [b, a], [0.1, 0.5])
    return x - y


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [created, into, in_place, many])
def test_a_compiled_call_stays_in_one_graph(function: Callable[..., Any], dynamic: bool) -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    a, b = torch.randn(300).bfloat16(), torch.randn(300).bfloat16()
    x, y = a.clone(), a.clone()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend=keep)
    assert torch.equal(compiled(x, b), function(y, b))
    assert torch.equal(x, y)
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert len(graphs) == 1
    assert sum("mi_kernels" in target for target in targets) == 1


@pytest.mark.slow
@pytest.mark.parametrize("function", [created, in_place, many])
def test_inductor_keeps_the_bits(function: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    a, b = torch.randn(300), torch.randn(300)
    assert torch.equal(torch.compile(function, fullgraph=True)(a.clone(), b), function(a.clone(), b))


def test_lam_may_change_between_calls() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, b, lam: mi_kernels.lerp(a, b, lam), fullgraph=True, backend="aot_eager")
    a, b = torch.randn(300), torch.randn(300)
    for lam in (0.1, 0.2, 0.8, 0, 1):
        assert torch.equal(compiled(a, b, lam), mi_kernels.lerp(a, b, lam)), lam


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (torch.zeros(4, 6), torch.zeros(6, 4).t(), "is not contiguous"),
        (torch.zeros(4, requires_grad=True), torch.zeros(4), "a requires grad.*a.detach"),
        (torch.zeros(4), torch.zeros(5), "has shape"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32), "has dtype torch.int32"),
    ],
)
def test_a_graph_of_wrong_arguments_is_refused(a: Any, b: Any, text: str) -> None:
    torch._dynamo.reset()
    with pytest.raises(Exception, match=f"(?s){text}"):
        torch.compile(lambda x, y: mi_kernels.lerp(x, y, 0.5), fullgraph=True, backend="aot_eager")(a, b)


def test_fake_tensors_pass_through() -> None:
    with FakeTensorMode():
        a, b = torch.empty(5, 3, device="cuda", dtype=torch.bfloat16), torch.empty(5, 3, device="cuda")
        out = mi_kernels.lerp(a, b, 0.5)
        assert (out.shape, out.dtype, out.device.type) == ((5, 3), torch.bfloat16, "cuda")
        assert mi_kernels.lerp(a, b, 0.5, b) is b
        assert [x.shape for x in mi_kernels.multi_lerp([a, b], [b, b], 0.5)] == [(5, 3)] * 2


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda a, b: (a, b.cpu(), 0.5), "on cpu.*on cuda"),
        (lambda a, b: (a, b.requires_grad_(), 0.5), "b requires grad"),
        (lambda a, b: (a, b.int(), 0.5), "torch.int32"),
        (lambda a, b: (a, torch.empty(2, 3, device="cuda"), 0.5), "has shape"),
        (lambda a, b: (a, b, float("nan")), "not finite"),
    ],
)
def test_fake_tensors_are_refused_as_real_ones(wrong: Callable[..., Any], text: str) -> None:
    with FakeTensorMode():
        a, b = torch.empty(5, 3, device="cuda"), torch.empty(5, 3, device="cuda")
        arguments = wrong(a, b)
        with pytest.raises(mi_kernels.MIKernelsError, match=text):
            mi_kernels.lerp(*arguments)


def test_the_ops_pass_torchs_own_checks() -> None:
    a, b = torch.randn(30).bfloat16(), torch.randn(30)
    torch.library.opcheck(custom.multi_lerp, ([a, b], [b, a], [0.5, 0.2]))
    torch.library.opcheck(custom.multi_lerp_out, ([torch.zeros(30)], [a], [b], [0.5]))
