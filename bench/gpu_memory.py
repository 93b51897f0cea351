"""Checkpoints that lie in device memory: every backend against copying the same bytes, and against torch.

Tensors of the published shapes, in sets that take turns; bits are checked before any timing. Where two sets are too
large for the device, all tensors stay and each has fewer elements: `shrink` says by what factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

import mi_kernels
from mi_kernels.backends import device_table
from mi_kernels.backends.reference import torch_lerp as torch_reference

from .gpu_clock import Clock
from .models import MODELS

LAM = 0.8
OURS = ("cuda", "triton")
_SHARE = 0.65  # of the free memory for the tensors; torch's results take the rest
_SETS = 2  # that take turns
_COPY = 4 << 30  # bytes copied to find the bandwidth


class WrongBitsError(RuntimeError):
    """A backend's result is not the contract's; nothing is timed."""


class Set:
    """The two inputs and the output of one merge, tensor by tensor."""

    def __init__(self, counts: Sequence[int], device: Any, seed: int) -> None:
        generator = torch.Generator(device).manual_seed(seed)

        def normal(n: int) -> Any:
            return torch.randn(n, device=device, generator=generator, dtype=torch.float32).mul_(0.02).bfloat16()

        self.a, self.b = ([normal(n) for n in counts] for _ in range(2))
        self.outs = [torch.full_like(x, float("nan")) for x in self.a]


def counts_of(model: str, budget: int, limit: int | None = None) -> tuple[list[int], float]:
    """Elements of each of the model's tensors, and the factor by which they had to shrink so that a set fits `budget`.

    Args:
        limit: take only so many tensors.
    """
    shapes = list(MODELS[model]().values())[:limit]
    sizes = [math.prod(shape) for shape in shapes]
    shrink = max(1.0, 3 * 2 * sum(sizes) / budget)
    return [max(1, int(n / shrink)) for n in sizes], shrink


def copy_bandwidth(clock: Clock, rounds: int) -> float:
    """Bytes moved in a second, read and written, by a device-to-device copy."""
    size = min(_COPY, clock.free() // 4)
    source, to = (torch.ones(size, dtype=torch.uint8, device=clock.device) for _ in range(2))
    return 2 * size / median(clock.kernel(lambda: to.copy_(source)) for _ in range(rounds))


def contestants(backends: Sequence[str]) -> dict[str, Callable[[Set], Any]]:
    def ours(name: str) -> Callable[[Set], Any]:
        if name == "reference":  # of the dry run: on CPU tensors it has no public way in
            return lambda s: torch_reference.multi_lerp(s.outs, s.a, s.b, [LAM] * len(s.a))
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
    """Every backend's bits, over outputs that were NaN, against the torch reference on the same device.

    Raises:
        WrongBitsError: names the backend and the tensor.
    """
    for name in backends:
        for out in s.outs:
            out.fill_(float("nan"))
        contestants(backends)[name](s)
        for i, (x, y, out) in enumerate(zip(s.a, s.b, s.outs)):
            wanted = torch.empty_like(x)
            torch_reference.multi_lerp([wanted], [x], [y], [LAM])
            if not torch.equal(out.view(torch.int16), wanted.view(torch.int16)):
                raise WrongBitsError(f"backend {name}: tensor {i} of {x.numel():,} elements differs from the contract")


def measure(clock: Clock, model: str, backends: Sequence[str], rounds: int, limit: int | None = None) -> dict[str, Any]:
    """Seconds of every contestant, in turns: on the device alone, and end to end as a caller sees them.

    Returns:
        tensors, bytes_moved (two read, one written), shrink; copy_bytes_per_second; and for each contestant the
        medians `kernel` and `host`, with all `runs`. For ours also `fresh`: end to end when the tables must be built.
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
    """The results as text: milliseconds, and the share of the copy bandwidth."""
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
