"""Everything that interpolates a list of tensors in device memory, and the rooflines beside it.

A contestant is made for a set and returns the work that is timed. One that cannot be made is left out with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

import mi_kernels
from mi_kernels.backends.reference import torch_lerp

from .sets import Set

LAM = 0.8
COPY, XOR = "copy", "xor"
ROOFLINES = (COPY, XOR)
IN_PLACE, OUT_OF_PLACE = "foreach_lerp_", "foreach_lerp"

Work = Callable[[], object]
Make = Callable[[Set], Work]


class UnavailableError(RuntimeError):
    """This contestant cannot run here; the message is the reason."""


def rooflines() -> dict[str, Make]:
    """What the hardware allows: a device copy of one input, and two reads with one write of the whole lists."""

    def copy(s: Set) -> Work:
        a, _, out = s.flat
        return lambda: out.copy_(a)

    def xor(s: Set) -> Work:
        a, b, out = (flat.view(torch.int32) for flat in _whole_words(s))
        return lambda: torch.bitwise_xor(a, b, out=out)

    return {COPY: copy, XOR: xor}


def _whole_words(s: Set) -> list[Any]:
    """The flat tensors of a set from an aligned start on, cut to a multiple of 16 bytes."""
    start = s.starts[0] if s.starts else 0
    return [flat[start:][: (flat.numel() - start) // 8 * 8] for flat in s.flat]


def ours(backends: Sequence[str]) -> dict[str, Make]:
    """`multi_lerp` of each backend, and a prepared plan of each."""
    made: dict[str, Make] = {}
    for name in backends:
        made[name] = multi_lerp_of(name)
        made[plan_of(name)] = plan(name)
    return made


def plan_of(backend: str) -> str:
    """The name of a backend's prepared plan in the results."""
    return f"{backend} plan"


def multi_lerp_of(backend: str) -> Make:
    if backend == "reference":  # in the dry run: no public function takes it for CPU tensors
        return lambda s: lambda: torch_lerp.multi_lerp(s.outs, s.a, s.b, [LAM] * len(s.a))
    return lambda s: lambda: mi_kernels.multi_lerp(s.a, s.b, LAM, s.outs, backend=backend)


def plan(backend: str) -> Make:
    """A plan that was prepared before; only its `lerp` is timed."""

    def make(s: Set) -> Work:
        prepared = prepare(s, backend)
        lams = iter(_alternating())
        return lambda: prepared.lerp(next(lams))

    return make


def prepare(s: Set, backend: str) -> Any:
    """`mi_kernels.prepare` of a set.

    Raises:
        UnavailableError: the backend does not take these tensors.
    """
    try:
        return mi_kernels.prepare(s.a, s.b, s.outs, backend=None if backend == "reference" else backend)
    except mi_kernels.MIKernelsError as error:
        raise UnavailableError(str(error)) from error


def _alternating() -> Any:
    """LAM and its neighbour in turn, which ends with LAM after an odd number of calls: a plan may skip what it has."""
    while True:
        yield LAM
        yield LAM - 0.1


def theirs() -> dict[str, Make]:
    """torch's ways. The naive one is what most scripts do; compiled, in a graph and as one fused call beside it."""

    def naive(s: Set) -> Work:
        return lambda: [x + LAM * (y - x) for x, y in zip(s.a, s.b)]

    def loop(s: Set) -> Work:
        def work() -> None:
            for x, y, out in zip(s.a, s.b, s.outs):
                torch.lerp(x, y, LAM, out=out)

        return work

    def in_place(s: Set) -> Work:
        return lambda: torch._foreach_lerp_(s.outs, s.b, LAM)

    def out_of_place(s: Set) -> Work:
        return lambda: torch._foreach_lerp(s.a, s.b, LAM)

    return {
        "naive": naive,
        "naive compiled": naive_compiled,
        "naive graph": naive_graph,
        "torch.lerp": loop,
        OUT_OF_PLACE: out_of_place,
        IN_PLACE: in_place,
    }


def naive_compiled(s: Set) -> Work:
    """`torch.compile` of the naive expression, for any length.

    Raises:
        UnavailableError: the compiler fails, or needs what is not installed.
    """
    compiled = torch.compile(lambda x, y: x + LAM * (y - x), dynamic=True)
    try:
        compiled(s.a[0], s.b[0])
        compiled(s.a[-1], s.b[-1])
    except Exception as error:  # the compiler has many kinds
        raise UnavailableError(f"torch.compile: {_first_line(error)}") from error
    return lambda: [compiled(x, y) for x, y in zip(s.a, s.b)]


def naive_graph(s: Set) -> Work:
    """The naive expression for all tensors, captured once. It writes the outputs, so that a graph holds no results.

    Raises:
        UnavailableError: the tensors are not on a GPU.
    """

    def work() -> None:
        for x, y, out in zip(s.a, s.b, s.outs):
            torch.add(x, LAM * (y - x), out=out)

    return captured(work, s.flat[0].device)


def captured(work: Work, device: Any) -> Work:
    """`work` as a CUDA graph, after one call outside of it.

    Raises:
        UnavailableError: the device has no graphs, or the capture fails.
    """
    if device.type != "cuda":
        raise UnavailableError("CUDA graphs need a GPU")
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except Exception as error:
        raise UnavailableError(f"capture: {_first_line(error)}") from error
    return graph.replay


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
