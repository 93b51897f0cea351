"""`mi_kernels.combine` of tensors on the device: the bits of the CPU, and the time beside the roofline of the bytes.

The roofline of a method reads every tensor once and writes the output once, at the rate of two reads and a write. What
needs a statistic of the whole tensor first (TIES, SLERP, Model Stock) must read its inputs twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import mi_kernels

from ..noise import ratios, show, spread
from .clock import Clock
from .sets import WrongBitsError, fill

ELEMENTS = 1 << 28  # of one tensor: 512 MiB of bf16
Emit = Callable[[dict[str, Any]], None]


class Case(NamedTuple):
    """A method as it is measured: how many models, whether with a base, and its parameters."""

    models: int
    base: bool
    parameters: dict[str, Any]


CASES: dict[str, Case] = {
    "linear": Case(2, False, {"weight": [0.3, 0.7]}),
    "average": Case(2, False, {}),
    "task_arithmetic": Case(2, True, {"scale": 0.7}),
    "ties": Case(2, True, {"density": 0.2}),
    "dare_linear": Case(2, True, {"density": 0.5}),
    "slerp": Case(2, False, {"lam": 0.3}),
    "model_stock": Case(2, True, {}),
}


def measure(clock: Clock, elements: int, rounds: int, emit: Emit) -> dict[str, Any]:
    """Times every method on tensors of `elements` elements of bf16.

    Returns:
        elements, xor_bytes_per_second, and for each method: models, bytes, the spreads `kernel`, `queued` and `host`,
        and `of_roofline`; or the reason why it failed. A method whose bits are wrong is never timed.
    """
    generator = torch.Generator(clock.device).manual_seed(1)
    tensors = [torch.empty(elements, dtype=torch.bfloat16, device=clock.device) for _ in range(3)]
    for tensor in tensors:
        fill(tensor, generator)
    for tensor in tensors[1:]:  # models of one family: small differences from the base
        tensor.mul_(0.1).add_(tensors[0])
    out = torch.empty_like(tensors[0])
    words = [x.view(torch.int32) for x in (*tensors[:2], out)]
    found: dict[str, Any] = {"elements": elements, "methods": {}}

    def xor() -> None:
        torch.bitwise_xor(words[0], words[1], out=words[2])

    for name, case in CASES.items():
        emit(found)
        bases = {"base": tensors[0]} if case.base else {}
        models = tensors[1 : 1 + case.models]

        def work(name: str = name, case: Case = case, bases: dict[str, Any] = bases, models: Any = models) -> None:
            mi_kernels.combine(models, name, **bases, **case.parameters, out=out)

        try:
            check(name, case, tensors, out)
        except (WrongBitsError, mi_kernels.MIKernelsError) as error:
            found["methods"][name] = {"failed": str(error)}
            continue
        moved = (case.models + case.base + 1) * elements * out.itemsize
        runs: dict[str, list[float]] = {}
        base: list[float] = []
        for i in range(rounds + 1):
            roof, times = clock.kernel(xor), clock.measure(work)
            if i > 0:
                base.append(roof / (3 * out.itemsize * elements) * moved)
                for kind, seconds in times._asdict().items():
                    runs.setdefault(kind, []).append(seconds)
        found["methods"][name] = {
            "models": case.models,
            "bytes": moved,
            **{kind: spread(seconds) for kind, seconds in runs.items()},
            "of_roofline": ratios(base, runs["host"]),  # statistics make the host wait, so its time is the fair one
        }
    emit(found)
    return found


def check(name: str, case: Case, tensors: list[Any], out: Any) -> None:
    """Compares the device's result with the CPU's.

    Raises:
        WrongBitsError: names the method and the first element that differs.
    """
    out.fill_(float("nan"))
    on_cpu = [x.cpu() for x in tensors]
    bases = [{"base": side[0]} if case.base else {} for side in (tensors, on_cpu)]
    mi_kernels.combine(tensors[1 : 1 + case.models], name, **bases[0], **case.parameters, out=out)
    wanted = mi_kernels.combine(on_cpu[1 : 1 + case.models], name, **bases[1], **case.parameters)
    different = out.cpu().view(torch.int16) != wanted.view(torch.int16)
    if different.any():
        raise WrongBitsError(
            f"{name}: {int(different.sum()):,} of {out.numel():,} elements differ from the CPU's, the first at "
            f"{int(different.nonzero()[0])}"
        )


def lines(found: dict[str, Any]) -> list[str]:
    text = [
        f"combine of {found['elements']:,} elements of bf16:",
        f"  {'':<18}{'host ms':>28}{'kernel ms':>11}{'of roofline':>13}",
    ]
    for name, r in found["methods"].items():
        if "failed" in r:
            text.append(f"  {name}: FAILED, {r['failed']}")
        else:
            text.append(
                f"  {name:<18}{show(r['host'], 1e3, 3):>28}{r['kernel']['median'] * 1e3:>11.3f}"
                f"{r['of_roofline']['median']:>13.3f}"
            )
    return text
