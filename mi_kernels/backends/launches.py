"""Launch a GPU kernel over rows of tensors: once, or again and again with new weights.

`kernels` is the module of a backend, `cuda` or `triton`. Both have chunk_for(elements), load(device), and
launch(device, table, triple, weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from . import device_table
from .device_table import DeviceTable, Rows, Triple

if TYPE_CHECKING:
    import torch

_BLOCKS = 4  # of pinned memory for weights: as many calls can be queued before one waits for the device


class Kernels(Protocol):
    """The functions of a backend that this module uses."""

    def chunk_for(self, elements: int) -> int: ...
    def load(self, device: torch.device) -> None: ...
    def launch(
        self, device: torch.device, part: DeviceTable, triple: Triple, weights: torch.Tensor | None = None
    ) -> None: ...


def run(kernels: Any, device: torch.device, rows: Rows, weights: Sequence[float]) -> None:
    """Interpolates every row with one launch on the current stream per dtype triple. Equal tables are built once."""
    lams = np.asarray(weights, dtype=np.float32)
    with device_table.on_device(device):
        kernels.load(device)
        for triple, some in device_table.by_dtypes(rows.codes).items():
            if not (elements := int(rows.elements[some].sum())):
                continue
            part = device_table.upload(
                device,
                kernels.chunk_for(elements),
                rows.addresses[some].tobytes(),
                rows.elements[some].tobytes(),
                lams[some].tobytes(),
            )
            if device.type == "cuda":
                import torch

                device_table.acquire(part, torch.cuda.current_stream(device))
            kernels.launch(device, part, triple)


class PreparedLaunches:
    """Rows whose tables stay on the device. A call uploads only weights, 4 bytes a row, and launches.

    Calls may come from several streams, one call at a time. A call in a stream capture keeps its weights and tables on
    the device until the process ends, because CUDA does not report when a graph is destroyed.

    Args:
        kernels: the module of a backend.
        device: the device of the tensors. With the interpreter of Triton it is the CPU.
        rows: the tensors. The caller keeps their memory valid as long as this object runs.
    """

    def __init__(self, kernels: Kernels, device: torch.device, rows: Rows) -> None:
        self._kernels, self._device = kernels, device
        self._parts: list[tuple[Triple, DeviceTable, slice]] = []
        order: list[npt.NDArray[np.intp]] = []
        end = 0
        none = np.zeros(0, np.intp)
        with device_table.on_device(device):
            kernels.load(device)
            for triple, some in device_table.by_dtypes(rows.codes).items():
                some = some[rows.elements[some] > 0]
                if not len(some):
                    continue
                chunk = kernels.chunk_for(int(rows.elements[some].sum()))
                part = device_table.build(device, chunk, rows.addresses[some], rows.elements[some])
                self._parts.append((triple, part, slice(end, end + len(some))))
                order.append(some)
                end += len(some)
            self._order = np.concatenate(order) if order else none
            self._weights = _Weights(device, end)

    def run(self, weights: npt.NDArray[np.float32]) -> None:
        """Interpolates every row on the current stream, with its weight; a row whose weight is NaN is skipped.

        Args:
            weights: float32 [T].
        """
        if not self._parts:
            return
        with device_table.on_device(self._device):
            if self._device.type == "cuda":
                self._acquire()
            uploaded = self._weights.upload(weights[self._order])
            for triple, part, some in self._parts:
                self._kernels.launch(self._device, part, triple, uploaded[some])
            self._weights.launched()

    def captured(self) -> bool:
        """Returns whether the current stream is being captured, so that a call runs later and repeatedly."""
        if self._device.type != "cuda":
            return False
        import torch

        return bool(torch.cuda.is_current_stream_capturing())

    def _acquire(self) -> None:
        import torch

        stream = torch.cuda.current_stream(self._device)
        for _, part, _ in self._parts:
            device_table.acquire(part, stream)


class _Weights:
    """Weights on their way to the device: a few blocks of pinned memory in turn, and their place on the device."""

    def __init__(self, device: torch.device, count: int) -> None:
        import torch

        self._device, self._count, self._turn = device, count, 0
        self._on_device = torch.empty(count, dtype=torch.float32, device=device)
        self._blocks: list[tuple[Any, Any]] = []
        self._last: Any = None  # the stream of the last call
        if device.type == "cuda":
            self._blocks = [
                (torch.empty(count, dtype=torch.float32, pin_memory=True), torch.cuda.Event()) for _ in range(_BLOCKS)
            ]
            self._done = torch.cuda.Event()

    def upload(self, weights: npt.NDArray[np.float32]) -> torch.Tensor:
        """Queues the copy of float32 [count] to the device. Waits only for the call that used the same block before."""
        import torch

        if self._device.type != "cuda":
            self._on_device.numpy()[:] = weights
            return self._on_device
        if torch.cuda.is_current_stream_capturing():
            return device_table.kept(self._device, torch.from_numpy(weights))
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None and stream != self._last:
            stream.wait_event(self._done)  # the launches there still read the weights of their call
            self._on_device.record_stream(stream)
        self._last = stream
        block, copied = self._blocks[self._turn]
        self._turn = (self._turn + 1) % len(self._blocks)
        copied.synchronize()  # returns at once if the event was never recorded
        block.numpy()[:] = weights
        self._on_device.copy_(block, non_blocking=True)
        copied.record(stream)
        return self._on_device

    def launched(self) -> None:
        """Call after the launches that read the weights."""
        import torch

        if self._device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            self._done.record(self._last)
