"""Say before vLLM starts that the GPUs are too small for a lam that can change. Needs neither vLLM nor torch.

A GPU then holds its part of the weights once as vLLM uses them, and unless `resident` is "host", once more for each of
the two models. The estimate counts nothing else (no KV cache, no CUDA graphs), and takes the best GPU for all of them:
what is refused cannot work, and what is not refused may still be too large for vLLM.
"""

from __future__ import annotations

import ctypes
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...errors import ArgumentError, counted
from ...system.sizes import show_bytes

_FULL = ("float32", "float")  # the values of vLLM's --dtype that need four bytes; all others need two


class Gpu(NamedTuple):
    """The memory of a GPU, in bytes. `free`: what other programs leave."""

    total: int
    free: int


class Need(NamedTuple):
    """What vLLM is to hold on its GPUs.

    Attributes:
        parameters: of the model.
        itemsize: bytes of a parameter.
        copies: of the model on each GPU, next to the weights in use.
        workers: GPUs that share a model.
        share: of a GPU's memory that vLLM may use.
    """

    parameters: int
    itemsize: int = 2
    copies: int = 2
    workers: int = 1
    share: float = 1.0

    @property
    def each(self) -> int:
        """Bytes on each GPU, at least."""
        return self.parameters * self.itemsize * (1 + self.copies) // self.workers


def need_of(parameters: int, options: Namespace, resident: str) -> Need:
    """Returns what a server needs.

    Args:
        options: vLLM's, from its parser. Those that are missing have their defaults.
    """
    if getattr(options, "cpu_offload_gb", 0):
        return Need(0)  # vLLM decides what stays on the GPU
    sizes = (getattr(options, f"{name}_parallel_size", 1) or 1 for name in ("tensor", "pipeline", "data"))
    workers = 1
    for size in sizes:
        workers *= size
    # With --kv-cache-memory-bytes, vLLM ignores the share.
    limited = getattr(options, "kv_cache_memory_bytes", None) is None
    return Need(
        parameters,
        itemsize=4 if getattr(options, "dtype", "auto") in _FULL else 2,
        copies=0 if resident == "host" else 2,
        workers=workers,
        share=getattr(options, "gpu_memory_utilization", 1.0) if limited else 1.0,
    )


def check_gpus(need: Need, gpus: Sequence[Gpu]) -> None:
    """Checks that the GPUs may be large enough. Without GPUs it checks nothing.

    Raises:
        ArgumentError: not even the weights and the copies fit.

    Example:
        >>> from mi_kernels.integrations.vllm.gpu_memory import Gpu, Need, check_gpus
        >>> check_gpus(Need(4_000_000_000, share=0.92), [Gpu(80 << 30, 79 << 30)])
        >>> check_gpus(Need(30_000_000_000, share=0.92), [Gpu(80 << 30, 79 << 30)])
        Traceback (most recent call last):
        mi_kernels.errors.ArgumentError: changing lam needs 180 GB on the GPU (the weights and 2 copies), and vLLM may \
use 79 GB of its 85.9 GB
        Use --resident host (60 GB), or more GPUs with vLLM's --tensor-parallel-size.
    """
    if not gpus:
        return
    total, free = max(gpu.total for gpu in gpus), max(gpu.free for gpu in gpus)
    usable = int(total * need.share)
    if need.each <= min(usable, free):
        return
    what = f"the weights and {counted(need.copies, 'copy', 'copies')}" if need.copies else "the weights alone"
    each = "the GPU" if need.workers == 1 else "each GPU"
    problem = f"changing lam needs {show_bytes(need.each)} on {each} ({what}), and "
    weights = need._replace(copies=0).each
    host = need.copies and weights <= min(usable, free)
    smaller = f"Use --resident host ({show_bytes(weights)}), or more" if host else "Use more"
    more = f"{smaller} GPUs with vLLM's --tensor-parallel-size."
    if need.each <= usable:
        raise ArgumentError(
            f"{problem}other programs leave {show_bytes(free)} of its {show_bytes(total)}",
            f"Stop the other programs on the GPU. {more if host else ''}".rstrip(),
        )
    raise ArgumentError(f"{problem}vLLM may use {show_bytes(usable)} of its {show_bytes(total)}", more)


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def gpus(environment: Mapping[str, str] = os.environ, library: str = "libnvidia-ml.so.1") -> list[Gpu]:
    """Returns the GPUs that NVML reports: no GPU without a driver, or if CUDA_VISIBLE_DEVICES hides all of them.

    NVML comes with the driver, and unlike torch it takes milliseconds and creates no context. Which of the GPUs vLLM
    will use is not decided here: CUDA and NVML may count them differently.
    """
    if environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return []
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return []
    found: list[Gpu] = []
    if nvml.nvmlInit_v2() != 0:
        return found
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return found
        for index in range(count.value):
            handle, memory = ctypes.c_void_p(), _Memory()
            if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
                continue
            if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
                found.append(Gpu(memory.total, memory.free))
    finally:
        nvml.nvmlShutdown()
    return found
