"""Prometheus metrics of turns, in the registry that vLLM's /metrics shows."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from .turns import Seen

_SECONDS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

CHANGES = Counter("mi_kernels_lam_changes", "Changes of the weights between groups of requests.")
WAITED = Histogram("mi_kernels_lam_wait_seconds", "Seconds that requests waited for their merge.", buckets=_SECONDS)
SIZES = Histogram("mi_kernels_lam_group_size", "Requests that began together after a change.", buckets=_SIZES)


def count(seen: Seen) -> None:
    """Counts a group that begins."""
    for seconds in seen.waited:
        WAITED.observe(seconds)
    if seen.changed:
        CHANGES.inc()
        SIZES.observe(seen.size)
