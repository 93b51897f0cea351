"""Call the compiled CPU kernels (csrc/cpu), and choose their ISA and number of threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, BackendError

if TYPE_CHECKING:
    from .spans import CombineSpan, Span

ISA_VARIABLE = "MI_KERNELS_CPU_ISA"


def choose_isa(available: Sequence[str], requested: str | None) -> str:
    """Returns the ISA to use: `requested`, or the first of `available` if `requested` is None or empty.

    Args:
        available: the ISAs of this machine, best first.

    Raises:
        BackendError: `requested` is not available. No other ISA is used instead.
    """
    if not requested:
        return available[0]
    if requested not in available:
        raise BackendError(
            f"{ISA_VARIABLE}={requested}: not available on this machine, which supports {', '.join(available)}",
            f"Unset {ISA_VARIABLE}, or set it to one of the supported values.",
        )
    return requested


def isa() -> str:
    """Returns the ISA of the next call: the value of MI_KERNELS_CPU_ISA, or the best ISA of this machine."""
    return choose_isa(_isas(), os.environ.get(ISA_VARIABLE))


@cache
def _extension() -> Any:
    from .. import _cpu

    return _cpu


@cache
def _isas() -> list[str]:
    found: list[str] = _extension().isas()
    return found


def default_threads() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """Returns `threads`, or `default_threads()` for None.

    Raises:
        ArgumentError: `threads` is not an integer from 1 to 1024.
    """
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise ArgumentError(f"threads is {threads!r}", "Use an integer from 1 to 1024.", argument="threads")
    return threads


def run_spans(spans: Sequence[Span], isa: str, threads: int = 1) -> None:
    """Interpolates every span, or copies it if its weight is 0 or 1. `spans.py` defines a span."""
    from .. import _cpu

    _cpu.lerp_spans(spans, isa, threads)


def run_pair(
    addresses: tuple[int, int, int], count: int, weight: float, codes: tuple[int, int, int], isa: str, threads: int
) -> bool:
    """Interpolates one pair like `run_addresses`.

    Args:
        addresses: of out, a and b.
        count: elements in each tensor.
        codes: dtype codes of out, a and b.

    Returns:
        False if out partly overlaps an input; nothing is written then. True otherwise.
    """
    done: bool = _extension().lerp_pair(*addresses, count, weight, *codes, isa, threads)
    return done


def prefer_huge_pages(address: int, nbytes: int) -> None:
    """Asks the system for huge pages under new memory. Does nothing without the compiled extension."""
    with suppress(ImportError):
        _extension().prefer_huge_pages(address, nbytes)


def run_groups(spans: Sequence[Span], group: int, isa: str) -> None:
    """Runs spans on one thread. Each `group` consecutive spans are outputs of one pair, which is read only once."""
    from .. import _cpu

    if group == 1:
        _cpu.lerp_spans(spans, isa)
    else:
        _cpu.lerp_groups(spans, group, isa)


def run_combine(spans: Sequence[CombineSpan], isa: str, threads: int = 1) -> None:
    """Combines several models into one, span by span. `spans.py` defines a span."""
    from .. import _cpu

    if spans:
        _cpu.combine_spans(spans, isa, threads)


def run_addresses(table: Any, weights: Any, codes: Sequence[int], isa: str, threads: int) -> None:
    """Interpolates tensors like `run_spans`, given their addresses. The caller guarantees that the memory is valid.

    Args:
        table: int64 [T, 4]: addresses of out, a and b, and the number of elements.
        weights: float64 [T].
        codes: dtype codes of out, a and b.
    """
    from .. import _cpu

    out, a, b = map(int, codes)
    _cpu.lerp_addresses(table, weights, out, a, b, isa, threads)
