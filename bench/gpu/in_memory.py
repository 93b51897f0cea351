"""Lists of tensors in device memory: every contestant, beside the rooflines of the same bytes.

Two sets of a list alternate, and bits are checked before any timing. If two sets do not fit on the device, every tensor
keeps its place with fewer elements; `shrink` is the divisor. All contestants run once in each round, so that a change
in the clocks of the device affects all of them, and shares of a roofline are taken within a round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mi_kernels.backends import device_table

from ..noise import ratios, show, spread
from .clock import Clock
from .contestants import (
    COPY,
    LAM,
    ROOFLINES,
    XOR,
    Make,
    UnavailableError,
    Work,
    multi_lerp_of,
    ours,
    plan,
    plan_of,
    rooflines,
    theirs,
)
from .sets import Set, TensorList, tensor_list

_SHARE = 0.6  # of the free memory for the tensors; the results of torch take the rest
_SETS = 2  # that alternate

Emit = Callable[[dict[str, Any]], None]
Runs = dict[str, dict[str, list[float]]]


def check(s: Set, backends: Sequence[str]) -> None:
    """Compares the bits of every backend, and of its plan, with the torch reference on the same device.

    Raises:
        WrongBitsError: names the backend and the tensor.
    """
    for name in backends:
        for label, make in ((name, multi_lerp_of(name)), (plan_of(name), plan(name))):
            s.clear()
            try:
                work = make(s)
            except UnavailableError:
                continue  # `make_all` gives the reason
            work()
            s.check(f"backend {label}", LAM)


def make_all(contestants: Mapping[str, Make], sets: Sequence[Set]) -> tuple[dict[str, list[Work]], dict[str, str]]:
    """The work of each contestant on each set, and the reasons of those that cannot run."""
    made: dict[str, list[Work]] = {}
    unavailable: dict[str, str] = {}
    for name, make in contestants.items():
        try:
            made[name] = [make(s) for s in sets]
        except UnavailableError as error:
            unavailable[name] = str(error)
    return made, unavailable


def measure(
    clock: Clock,
    name: str,
    backends: Sequence[str],
    rounds: int,
    emit: Emit,
    limit: int | None = None,
    leave_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Times every contestant on one of LISTS, but those of `leave_out`. Calls `emit` after each round.

    Returns:
        See `summary`.
    """
    tensors = tensor_list(name, int(clock.free() * _SHARE) // _SETS, limit)
    sets = [Set(tensors.counts, clock.device, seed) for seed in range(_SETS)]
    check(sets[0], backends)
    contestants = {**rooflines(), **ours(backends), **theirs()}
    made, unavailable = make_all({k: make for k, make in contestants.items() if k not in leave_out}, sets)
    unavailable |= dict.fromkeys(leave_out, "left out of a quick step")
    runs: Runs = {}
    for i in range(rounds + 1):  # the first round warms up
        for label, works in made.items():
            found = clock.measure(works[i % _SETS])._asdict()
            if label in backends and forget_tables():
                found["fresh"] = clock.host(works[i % _SETS])
            if i > 0:
                for kind, seconds in found.items():
                    runs.setdefault(label, {}).setdefault(kind, []).append(seconds)
        if i > 0:
            emit(summary(tensors, sets[0], runs, unavailable))
    return summary(tensors, sets[0], runs, unavailable)


def forget_tables() -> bool:
    """Drops the chunk tables of earlier calls. False if none are kept."""
    clear = getattr(getattr(device_table, "upload", None), "cache_clear", None)
    if clear is None:
        return False
    clear()
    return True


def summary(tensors: TensorList, s: Set, runs: Runs, unavailable: Mapping[str, str]) -> dict[str, Any]:
    """The figures of a list.

    Returns:
        list, tensors, bytes_moved (two reads, one write), shrink, unavailable, and `results`: for each contestant the
        spreads of `kernel`, `queued` and `host` seconds, the median `bytes_per_second`, and the share of each roofline
        (`of_copy`, `of_xor`: its rate, measured in the same round). For ours also `fresh`: seconds of the caller when
        the chunk tables must be built.
    """
    moved = dict.fromkeys(runs, s.moved)
    if COPY in moved:
        moved[COPY] = 2 * s.flat[0].numel() * s.flat[0].itemsize
    if XOR in moved:
        moved[XOR] = sum(flat.numel() * flat.itemsize for flat in s.flat)
    rates = {label: [moved[label] / seconds for seconds in kinds["kernel"]] for label, kinds in runs.items()}
    results = {}
    for label, kinds in runs.items():
        results[label] = {
            **{kind: spread(seconds) for kind, seconds in kinds.items()},
            "bytes_per_second": spread(rates[label]),
            **{f"of_{base}": ratios(rates[label], rates[base]) for base in ROOFLINES if base in rates},
        }
    return {
        "list": tensors.name,
        "tensors": len(tensors.counts),
        "bytes_moved": s.moved,
        "shrink": tensors.shrink,
        "unavailable": dict(unavailable),
        "results": results,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The results as lines of text: milliseconds as median (min - max), and the shares of the rooflines."""
    scaled = "" if found["shrink"] == 1 else f", elements divided by {found['shrink']:g}"
    text = [
        f"{found['list']}: {found['tensors']:,} tensors, {found['bytes_moved'] / 1e9:.2f} GB moved{scaled}",
        f"  {'':<16}{'kernel ms':>28}{'of copy':>9}{'of xor':>8}{'GB/s':>7}{'queued ms':>11}{'host ms':>10}"
        f"{'fresh ms':>10}",
    ]
    for name, r in found["results"].items():
        fresh = f"{r['fresh']['median'] * 1e3:>10.3f}" if "fresh" in r else ""
        text.append(
            f"  {name:<16}{show(r['kernel'], 1e3, 3):>28}{_share(r, COPY):>9}{_share(r, XOR):>8}"
            f"{r['bytes_per_second']['median'] / 1e9:>7.0f}{r['queued']['median'] * 1e3:>11.3f}"
            f"{r['host']['median'] * 1e3:>10.3f}{fresh}"
        )
    return [*text, *(f"  {name}: not measured, {reason}" for name, reason in found["unavailable"].items())]


def _share(result: dict[str, Any], base: str) -> str:
    share = result.get(f"of_{base}")
    return "" if share is None else f"{share['median']:.3f}"
