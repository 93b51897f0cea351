"""Pinned host memory in one block, for tensors that a GPU copies from or to.

A GPU copies asynchronously only from and to pinned memory, which the system does not move. torch's allocator of pinned
memory rounds every block up to a power of two: 1.41 times the bytes of a 4B pair. A `PinnedArena` is one mapping of
exactly the size that is needed, in huge pages where the system provides them. It is registered with CUDA once, for all
devices, and is cut into tensors.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import BackendError
from ..system import interrupts
from ..system.calls import io_buffer

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64  # bytes: a cache line, and more than the kernels' wide accesses need
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: pinned for all devices


def pinned_size(sizes: Iterable[int]) -> int:
    """Returns the size of an arena that holds tensors of these sizes in bytes.

    >>> pinned_size([64, 1, 100])
    256
    """
    return sum(map(_aligned, sizes))


class Pinning(Protocol):
    """Registers memory with a device's driver; implemented by `CudaPinning`."""

    def register(self, address: int, size: int) -> None:
        """Pins `size` bytes of memory.

        Raises:
            RuntimeError: the driver refuses.
        """

    def wait(self) -> None:
        """Waits until no copy is pending on any device."""

    def unregister(self, address: int) -> None:
        """Reverses `register`."""


class CudaPinning:
    """Pins memory for CUDA devices. The driver registers it, because a failed call of the CUDA runtime would leave its
    error to torch's next launch.

    Args:
        devices: the devices whose copies `wait` waits for.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = list(devices)

    def register(self, address: int, size: int) -> None:
        self._call("cuMemHostRegister_v2", ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_uint(_PORTABLE))

    def wait(self) -> None:
        import torch

        for device in self._devices:
            torch.cuda.synchronize(device)

    def unregister(self, address: int) -> None:
        self._call("cuMemHostUnregister", ctypes.c_void_p(address))

    def _call(self, name: str, *arguments: Any) -> None:
        import torch

        with torch.cuda.device(self._devices[0]):
            torch.cuda.synchronize()  # creates the context of the device, and makes it that of this thread
            driver = _driver()
            if code := getattr(driver, name)(*arguments):
                text = ctypes.c_char_p()
                driver.cuGetErrorString(code, ctypes.byref(text))
                raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()}")


class PinnedArena:
    """One block of pinned memory that is cut into tensors, from its start to its end.

    A context: leaving it, or `close`, waits for pending copies and unpins the memory. Without either, the memory is
    unpinned when the arena and all its tensors are gone. A tensor that is still used afterwards keeps its values, in
    memory that is not pinned.

    Args:
        size: bytes; see `pinned_size`.
        pinning: registers the memory. None: it is not pinned, for a process without a GPU.

    Raises:
        BackendError: the driver cannot pin so much memory.

    Example:
        >>> import torch
        >>> with PinnedArena(pinned_size([6]), pinning=None) as arena:
        ...     tensor = arena.tensor((3,), torch.bfloat16).fill_(2)
        >>> tensor.tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(self, size: int, pinning: Pinning | None) -> None:
        # All tensors refer to this array, and the array to the mapping. It dies before the mapping.
        self._memory = np.frombuffer(io_buffer(max(size, 1)), np.uint8)
        self._used, self._pinning = 0, pinning
        self._unpin: Any = None
        if pinning is None:
            return
        with interrupts.held():
            try:
                pinning.register(self._memory.ctypes.data, self._memory.nbytes)
            except RuntimeError as error:
                raise BackendError(
                    f"cannot pin {size:,} bytes of host memory: {error}",
                    "Free host memory. A merge can use `device='cpu'`, and a live model `resident=False`.",
                ) from error
            self._unpin = weakref.finalize(self._memory, _unpin, pinning, self._memory.ctypes.data)
        self._unpin.atexit = False  # the system frees the memory of a process that ends

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Returns the next tensor: contiguous, uninitialized, aligned to 64 bytes.

        Raises:
            ValueError: the arena is too small, or closed.
        """
        import torch

        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        end = self._used + nbytes
        if end > self._memory.nbytes:
            raise ValueError(f"the arena has {self._memory.nbytes} bytes, and {end} are needed")
        piece = self._memory[self._used : end]
        self._used = _aligned(end)
        return torch.from_numpy(piece).view(dtype).view(tuple(shape))

    def close(self) -> None:
        """Waits for pending copies, and unpins the memory. Further calls do nothing."""
        if self._unpin is not None:
            with interrupts.held():
                self._unpin()
        self._memory = np.empty(0, np.uint8)

    def __enter__(self) -> PinnedArena:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _unpin(pinning: Pinning, address: int) -> None:
    # An error of a device is reported by the call that uses it, not by the one that tidies up.
    with suppress(RuntimeError):
        pinning.wait()
    with suppress(RuntimeError):
        pinning.unregister(address)


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
