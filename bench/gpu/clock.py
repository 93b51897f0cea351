"""Measures time on a GPU. A stand-in for the CPU allows a dry run of everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

_FLUSH = 256 << 20  # bytes: several times the L2 cache of any current GPU
_HOLD = 0.002  # seconds: how much longer the queue is blocked than it takes to fill it


class CudaClock:
    """Times work on one CUDA device in seconds, with a cold L2 cache."""

    measured = True

    def __init__(self, device: str = "cuda:0") -> None:
        self.device = torch.device(device)
        torch.cuda.set_device(self.device)
        self._flush = torch.empty(_FLUSH, dtype=torch.uint8, device=self.device)
        self._cycles_per_second = self._calibrate()

    def _calibrate(self) -> float:
        cycles = 100_000_000
        torch.cuda._sleep(cycles)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
        return cycles / (begin.elapsed_time(end) / 1e3)

    def kernel(self, work: Callable[[], object]) -> float:
        """Seconds of the device for `work`. The queue is blocked until all of `work` is queued, so that gaps between
        launches do not count.

        The queue holds about a thousand launches. Further ones are queued while the first run.
        """
        hold = self.host(work) + _HOLD
        self._flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(hold * self._cycles_per_second))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def host(self, work: Callable[[], object]) -> float:
        """Seconds from the call until the device has finished, as a caller waits."""
        self._flush.zero_()
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    def free(self) -> int:
        """Free bytes of device memory."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    def pinned(self, size: int) -> Any:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class DryClock:
    """The same calls on CPU tensors. The returned seconds mean nothing."""

    measured = False

    def __init__(self, free: int = 1 << 20) -> None:
        self.device = torch.device("cpu")
        self._free = free

    def kernel(self, work: Callable[[], object]) -> float:
        return self.host(work)

    def host(self, work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    def free(self) -> int:
        return self._free

    def pinned(self, size: int) -> Any:
        return torch.empty(size, dtype=torch.uint8)


Clock = CudaClock | DryClock
