"""Checkpoints in device memory: every backend, compared with copying the same bytes and with torch.

The tensors have the published shapes. Two sets of them alternate, and bits are checked before any timing. If two sets
do not fit on the device, every tensor keeps its place with fewer elements; `shrink` is the divisor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

import mi_kernels
from mi_kernels.backends import device_table
from mi_kernels.backends.reference import torch_lerp

from ..models import MODELS
from .clock import Clock

LAM = 0.8
OURS = ("cuda", "triton")
_SHARE = 0.65  # of the free memory for the tensors; the results of torch take the rest
_SETS = 2  # that alternate
_COPY = 4 << 30  # bytes copied to find the bandwidth


class WrongBitsError(RuntimeError):
    """The result of a backend differs from the contract, so that nothing may be timed."""


class Set:
    """The two inputs and the output of one merge, tensor by tensor."""

    def __init__(self, counts: Sequence[int], device: Any, seed: int) -> None:
        generator = torch.Generator(device).manual_seed(seed)

        def normal(n: int) -> Any:
            return torch.randn(n, device=device, generator=generator, dtype=torch.float32).mul_(0.02).bfloat16()

        self.a, self.b = ([normal(n) for n in counts] for _ in range(2))
        self.outs = [torch.full_like(x, float("nan")) for x in self.a]


def counts_of(model: str, budget: int, limit: int | None = None) -> tuple[list[int], float]:
    """Elements of each tensor of the model, divided so that a set takes at most `budget` bytes; and the divisor.

    Args:
        limit: use only the first tensors.
    """
    shapes = list(MODELS[model]().values())[:limit]
    sizes = [math.prod(shape) for shape in shapes]
    shrink = max(1.0, 3 * 2 * sum(sizes) / budget)
    return [max(1, int(n / shrink)) for n in sizes], shrink


def copy_bandwidth(clock: Clock, rounds: int) -> float:
    """Bytes read and written in a second by a device-to-device copy."""
    size = min(_COPY, clock.free() // 4)
    source, to = (torch.ones(size, dtype=torch.uint8, device=clock.device) for _ in range(2))
    return 2 * size / median(clock.kernel(lambda: to.copy_(source)) for _ in range(rounds))


def contestants(backends: Sequence[str]) -> dict[str, Callable[[Set], Any]]:
    def ours(name: str) -> Callable[[Set], Any]:
        if name == "reference":  # in the dry run: no public function takes it for CPU tensors
            return lambda s: torch_lerp.multi_lerp(s.outs, s.a, s.b, [LAM] * len(s.a))
        return lambda s: mi_kernels.multi_lerp(s.a, s.b, LAM, s.outs, backend=name)

    def naive(s: Set) -> Any:
        return [x + LAM * (y - x) for x, y in zip(s.a, s.b)]

    def loop(s: Set) -> Any:
        for x, y, out in zip(s.a, s.b, s.outs):
            torch.lerp(x, y, LAM, out=out)

    def foreach(s: Set) -> Any:
        return torch._foreach_lerp(s.a, s.b, LAM)

    return {**{name: ours(name) for name in backends}, "naive": naive, "torch.lerp": loop, "foreach_lerp": foreach}


def check(s: Set, backends: Sequence[str]) -> None:
    """Compares the bits of every backend with the torch reference on the same device. Outputs start as NaN.

    Raises:
        WrongBitsError: names the backend and the tensor.
    """
    for name in backends:
        for out in s.outs:
            out.fill_(float("nan"))
        contestants(backends)[name](s)
        for i, (x, y, out) in enumerate(zip(s.a, s.b, s.outs)):
            wanted = torch.empty_like(x)
            torch_lerp.multi_lerp([wanted], [x], [y], [LAM])
            if not torch.equal(out.view(torch.int16), wanted.view(torch.int16)):
                raise WrongBitsError(f"backend {name}: tensor {i} of {x.numel():,} elements differs from the contract")


def measure(clock: Clock, model: str, backends: Sequence[str], rounds: int, limit: int | None = None) -> dict[str, Any]:
    """Seconds of every contestant, which alternate: on the device alone, and end to end as a caller waits.

    Returns:
        tensors, bytes_moved (two reads, one write), shrink, copy_bytes_per_second, and for each contestant the medians
        `kernel` and `host`, with all `runs`. For ours also `fresh`: end to end when the chunk tables must be built.
    """
    bandwidth = copy_bandwidth(clock, rounds)
    counts, shrink = counts_of(model, int(clock.free() * _SHARE) // _SETS, limit)
    sets = [Set(counts, clock.device, seed) for seed in range(_SETS)]
    check(sets[0], backends)
    runs: dict[str, dict[str, list[float]]] = {}
    for i in range(rounds + 1):  # the first round warms up
        s = sets[i % _SETS]
        for name, work in contestants(backends).items():
            found = {"kernel": clock.kernel(lambda: work(s)), "host": clock.host(lambda: work(s))}  # noqa: B023
            if name in backends:
                device_table.upload.cache_clear()
                found["fresh"] = clock.host(lambda: work(s))  # noqa: B023
            if i > 0:
                for kind, seconds in found.items():
                    runs.setdefault(name, {}).setdefault(kind, []).append(seconds)
    moved = 3 * 2 * sum(counts)
    return {
        "model": f"Qwen3-{model}",
        "tensors": len(counts),
        "bytes_moved": moved,
        "shrink": round(shrink, 2),
        "copy_bytes_per_second": bandwidth,
        "results": {
            name: {
                **{kind: median(seconds) for kind, seconds in kinds.items()},
                "of_copy_bandwidth": moved / median(kinds["kernel"]) / bandwidth,
                "runs": kinds,
            }
            for name, kinds in runs.items()
        },
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The results as lines of text: milliseconds, and the share of the copy bandwidth."""
    scaled = "" if found["shrink"] == 1 else f", elements divided by {found['shrink']:g}"
    text = [
        f"{found['model']}: {found['tensors']:,} tensors, {found['bytes_moved'] / 1e9:.2f} GB moved{scaled}; "
        f"copying {found['copy_bytes_per_second'] / 1e9:,.0f} GB/s",
        f"  {'':<14}{'kernel ms':>11}{'of copy':>9}{'host ms':>10}{'fresh ms':>10}",
    ]
    for name, r in found["results"].items():
        fresh = f"{r['fresh'] * 1e3:>10.3f}" if "fresh" in r else ""
        text.append(
            f"  {name:<14}{r['kernel'] * 1e3:>11.3f}{r['of_copy_bandwidth']:>9.3f}{r['host'] * 1e3:>10.3f}{fresh}"
        )
    return text
