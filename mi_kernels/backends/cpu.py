"""The compiled CPU kernels: which ISA serves, on how many threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from ..dtypes import CODES
from ..errors import ArgumentError, BackendError

if TYPE_CHECKING:
    from .spans import CombineSpan, Span

ISA_VARIABLE = "MI_KERNELS_CPU_ISA"


def choose_isa(available: Sequence[str], requested: str | None) -> str:
    """The ISA to use: the best one (`available` is ordered so), or the one asked for.

    Raises:
        BackendError: `requested` is not available; nothing else is used in its place.
    """
    if not requested:
        return available[0]
    if requested not in available:
        raise BackendError(
            f"{ISA_VARIABLE}={requested}: this machine runs {', '.join(available)}",
            f"Unset {ISA_VARIABLE}, or set it to one of these.",
        )
    return requested


def isa() -> str:
    """The ISA the next call uses: the best of this machine, or the one MI_KERNELS_CPU_ISA names."""
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
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """`threads`, or the default for None.

    Raises:
        ArgumentError: not a whole number from 1 to 1024.
    """
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise ArgumentError(f"threads is {threads!r}", "Give a whole number from 1 to 1024.")
    return threads


def run_spans(spans: Sequence[Span], isa: str, threads: int = 1) -> None:
    """Interpolates (weight 0 or 1: copies) every span; see `spans`."""
    from .. import _cpu

    _cpu.lerp_spans(spans, isa, threads)


def run_pair(
    addresses: tuple[int, int, int], count: int, weight: float, codes: tuple[int, int, int], isa: str, threads: int
) -> bool:
    """As `run_addresses` for one pair: addresses and dtype codes of out, a and b, and the count of elements.

    False, with nothing done, where out overlaps an input without being it.
    """
    done: bool = _extension().lerp_pair(*addresses, count, weight, *codes, isa, threads)
    return done


def prefer_huge_pages(address: int, nbytes: int) -> None:
    """Asks for huge pages under fresh memory; without the extension, nothing."""
    with suppress(ImportError):
        _extension().prefer_huge_pages(address, nbytes)


def run_groups(spans: Sequence[Span], group: int, isa: str) -> None:
    """As `run_spans` on one thread; `group` consecutive spans are outputs of one pair, which is then read once."""
    from .. import _cpu

    if group == 1:
        _cpu.lerp_spans(spans, isa)
    else:
        _cpu.lerp_groups(spans, group, isa)


def run_combine(spans: Sequence[CombineSpan], isa: str, threads: int = 1) -> None:
    """Combines several models into one, span by span; see `spans`."""
    from .. import _cpu

    if spans:
        _cpu.combine_spans(spans, isa, threads)


def run_addresses(table: Any, weights: Any, dtypes: Sequence[str], isa: str, threads: int) -> None:
    """As `run_spans`, for memory the caller vouches for.

    Args:
        table: int64 [T, 4]: addresses of out, a and b, and the count of elements.
        weights: float64 [T].
        dtypes: of out, a and b, by safetensors' names.
    """
    from .. import _cpu

    out, a, b = (CODES[dtype] for dtype in dtypes)
    _cpu.lerp_addresses(table, weights, out, a, b, isa, threads)
