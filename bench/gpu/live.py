"""The cost of a new lam: `Knob.set_lam` of a live model, and prepared plans, eager and captured in a CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

import mi_kernels
from mi_kernels.output.synthetic import Shapes

from ..noise import spread
from .clock import Clock
from .contestants import LAM, UnavailableError, captured, prepare
from .sets import Set, WrongBitsError, fill, tensor_list

_LAMS = (0.3, LAM)  # in turn, so that no change is empty
Emit = Callable[[dict[str, Any]], None]


def module_of(shapes: Shapes, device: Any, seed: int) -> torch.nn.Module:
    """A module with random bf16 parameters of these names and shapes. It has no forward pass."""
    generator = torch.Generator(device).manual_seed(seed)
    counts = [math.prod(shape) for shape in shapes.values()]
    flat = torch.empty(sum(counts), dtype=torch.bfloat16, device=device)
    fill(flat, generator)
    root = torch.nn.Module()
    for (name, shape), part in zip(shapes.items(), flat.split(counts)):
        *path, leaf = name.split(".")
        owner = root
        for word in path:
            if not hasattr(owner, word):
                owner.add_module(word, torch.nn.Module())
            owner = getattr(owner, word)
        # Memory of its own, like a parameter that was loaded.
        owner.register_parameter(leaf, torch.nn.Parameter(part.clone().view(shape), requires_grad=False))
    return root


def measure_knob(clock: Clock, shapes: Shapes, rounds: int, emit: Emit) -> dict[str, Any]:
    """Spreads of seconds of `set_lam`: `queued` until the call returns, `host` until the device has finished.

    The first model is checked against the contract after a change.

    Raises:
        WrongBitsError: names the parameter.
    """
    model, other = (module_of(shapes, clock.device, seed) for seed in (1, 2))
    original = {name: p.detach().clone() for name, p in model.named_parameters()}
    knob = mi_kernels.live.attach(model, other)
    knob.set_lam(LAM)
    thinking = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        wanted = mi_kernels.lerp(original[name], thinking[name].detach(), LAM)
        if not torch.equal(parameter.view(torch.int16), wanted.view(torch.int16)):
            raise WrongBitsError(f"set_lam: {name} differs from mi_kernels.lerp")
    del original
    runs: dict[str, list[float]] = {}
    for i in range(rounds + 1):  # the first round warms up
        lam = _LAMS[i % 2]
        times = clock.measure(lambda: (knob.set_lam(lam), knob.set_lam(1 - lam)))  # noqa: B023
        if i > 0:
            for kind, seconds in times._asdict().items():
                runs.setdefault(kind, []).append(seconds / 2)  # two changes
    knob.detach()
    found = {"parameters": len(shapes), "bytes": 2 * sum(map(math.prod, shapes.values()))}
    found["set_lam"] = {kind: spread(seconds) for kind, seconds in runs.items()}
    emit(found)
    return found


def measure_plans(
    clock: Clock, lists: Sequence[str], backends: Sequence[str], rounds: int, emit: Emit, limit: int | None = None
) -> dict[str, Any]:
    """Plans of each list and backend: seconds to prepare, and of `lerp`, called and replayed from a graph.

    Raises:
        UnavailableError: the backend does not take these tensors.
        WrongBitsError: a plan or its graph gives other bits than the contract.
    """
    found: dict[str, Any] = {}
    for name in lists:
        tensors = tensor_list(name, clock.free() // 2, limit)
        s = Set(tensors.counts, clock.device, 1)
        for backend in backends:
            about = {"tensors": len(tensors.counts), "shrink": tensors.shrink, "bytes_moved": s.moved}
            found[f"{tensors.name}, {backend}"] = {**about, **_measure_plan(clock, s, backend, rounds)}
            emit(found)
        del s  # before the next one is made: two lists do not fit
    return found


def _measure_plan(clock: Clock, s: Set, backend: str, rounds: int) -> dict[str, Any]:
    preparing = [clock.host(lambda: prepare(s, backend)) for _ in range(rounds)]
    plan = prepare(s, backend)
    s.clear()
    plan.lerp(LAM)
    s.check(f"{backend} plan", LAM)
    row: dict[str, Any] = {"prepare": spread(preparing), "lerp": _timed(clock, plan, rounds)}
    try:
        replay = captured(lambda: plan.lerp(LAM), clock.device)
    except UnavailableError as error:
        return {**row, "graph": str(error)}
    s.clear()
    replay()
    s.check(f"{backend} plan in a graph", LAM)
    times = [clock.measure(replay)._asdict() for _ in range(rounds)]
    return {**row, "graph": {kind: spread([t[kind] for t in times]) for kind in times[0]}}


def _timed(clock: Clock, plan: Any, rounds: int) -> dict[str, Any]:
    runs: dict[str, list[float]] = {}
    for i in range(rounds + 1):
        lam = _LAMS[i % 2]
        times = clock.measure(lambda: (plan.lerp(lam), plan.lerp(1 - lam)))  # noqa: B023
        if i > 0:
            for kind, seconds in times._asdict().items():
                runs.setdefault(kind, []).append(seconds / 2)
    return {kind: spread(seconds) for kind, seconds in runs.items()}


def knob_lines(found: dict[str, Any]) -> list[str]:
    return [
        f"Knob.set_lam of {found['parameters']} parameters, {found['bytes'] / 1e9:.2f} GB:",
        *_rows({"set_lam": found["set_lam"]}),
    ]


def plan_lines(found: dict[str, Any]) -> list[str]:
    text = []
    for name, row in found.items():
        scaled = "" if row["shrink"] == 1 else f", elements divided by {row['shrink']:g}"
        text.append(f"plan of {name}: {row['tensors']:,} tensors{scaled}")
        text.append(f"  prepare         {row['prepare']['median'] * 1e3:>10.3f} ms")
        text += _rows({"lerp": row["lerp"], "graph": row["graph"]})
    return text


def _rows(found: dict[str, Any]) -> list[str]:
    text = []
    for name, kinds in found.items():
        if isinstance(kinds, str):
            text.append(f"  {name}: not measured, {kinds}")
        else:
            shown = ", ".join(
                f"{kind} {s['median'] * 1e3:.3f} ({s['min'] * 1e3:.3f} - {s['max'] * 1e3:.3f})"
                for kind, s in kinds.items()
            )
            text.append(f"  {name:<16}{shown} ms")
    return text
