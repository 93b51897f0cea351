"""Measures time on a GPU. A stand-in for the CPU allows a dry run of everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

_FLUSH = 256 << 20  # bytes: several times the L2 cache of any current GPU
_HOLD = 0.002  # seconds: how much longer the queue is blocked than it takes to fill it


class Times(NamedTuple):
    """Seconds of one piece of work.

    Attributes:
        kernel: of the device alone.
        queued: until the call returns.
        host: until the device has finished, as a caller waits.
    """

    kernel: float
    queued: float
    host: float


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
        """Seconds of the device for `work`."""
        return self.measure(work).kernel

    def measure(self, work: Callable[[], object]) -> Times:
        """Runs `work` twice: as a caller waits for it, and for the time of the device.

        For the second run the queue is blocked until all of `work` is queued, so that gaps between launches do not
        count. It holds about a thousand launches; further ones are queued while the first run.
        """
        queued, host = self._as_a_caller(work)
        self._flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int((host + _HOLD) * self._cycles_per_second))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return Times(begin.elapsed_time(end) / 1e3, queued, host)

    def host(self, work: Callable[[], object]) -> float:
        """Seconds from the call until the device has finished, as a caller waits."""
        return self._as_a_caller(work)[1]

    def _as_a_caller(self, work: Callable[[], object]) -> tuple[float, float]:
        self._flush.zero_()
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        queued = time.perf_counter()
        torch.cuda.synchronize()
        return queued - started, time.perf_counter() - started

    def synchronize(self) -> None:
        torch.cuda.synchronize()

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
        return self.measure(work).kernel

    def measure(self, work: Callable[[], object]) -> Times:
        return Times(*[self.host(work)] * 3)

    def host(self, work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    def synchronize(self) -> None:
        pass

    def free(self) -> int:
        return self._free

    def pinned(self, size: int) -> Any:
        return torch.empty(size, dtype=torch.uint8)


Clock = CudaClock | DryClock
