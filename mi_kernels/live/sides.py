"""Where a live model's two sides are between changes of lam, and how a merge of them gets into its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch

from ..backends import cpu
from ..checkpoint.alignment import Row
from ..checkpoint.inputs import Inputs, is_computed
from ..checkpoint.record import Checkpoint
from ..checkpoint.tensor import TensorInfo
from ..checkpoint.virtual import SavedTensor
from ..dtypes import FLOATS, FROM_TORCH, TORCH_NAMES
from ..errors import MismatchError
from ..merge.plan import Source
from ..merge.spans import fill_tensor
from ..ops.linear import lerp, multi_lerp

Tensors = Mapping[str, torch.Tensor]

_STAGE = 64 << 20  # bytes of each side that are on their way from pinned memory at a time
_DTYPES = {name: getattr(torch, TORCH_NAMES[name]) for name in FLOATS}


class Sides(Protocol):
    """Both models, by the names of the live one."""

    def check(self) -> None:
        """To be called before `write`, while nothing is touched.

        Raises:
            CheckpointError: a side is no longer what it was.
        """

    def write(self, live: Tensors, weights: Mapping[str, float]) -> None:
        """Makes each tensor of `live` the interpolation of its two sides at its weight, in place."""

    def close(self) -> None:
        """Lets go of memory and files."""


class Held:
    """Both sides as tensors, each on the device of its live tensor or in the host's memory."""

    def __init__(self, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
        self._a, self._b = a, b

    def check(self) -> None:
        pass

    def write(self, live: Tensors, weights: Mapping[str, float]) -> None:
        by_device: dict[torch.device, list[str]] = {}
        for name, tensor in live.items():
            if self._a[name].device == self._b[name].device == tensor.device:
                by_device.setdefault(tensor.device, []).append(name)
            else:
                _write_staged(tensor, self._a[name], self._b[name], weights[name])
        for names in by_device.values():
            multi_lerp(
                [self._a[name] for name in names],
                [self._b[name] for name in names],
                [weights[name] for name in names],
                [live[name] for name in names],
            )

    def close(self) -> None:
        self._a, self._b = {}, {}


class Mapped:
    """Both sides as checkpoints, read through the page cache at every change: no tensor of theirs is kept.

    Args:
        rows: (live, a, b) of each tensor.
    """

    def __init__(self, models: Sequence[Checkpoint], rows: Sequence[Row]) -> None:
        self._models = models
        self._inputs = Inputs([model.files for model in models])
        self._pairs = {row.name: row.inputs[1:] for row in rows}
        for pair in self._pairs.values():
            for k, tensor in enumerate(pair):
                self._inputs.check_length(k, tensor)

    def check(self) -> None:
        for model in self._models:
            model.check_unchanged()

    def write(self, live: Tensors, weights: Mapping[str, float]) -> None:
        isa = cpu.isa()
        with ThreadPoolExecutor(cpu.checked_threads(None), "mi-kernels-live") as pool:
            tasks = [
                pool.submit(_fill, self._inputs, Source(self._pairs[name], (weights[name],)), tensor, isa)
                for name, tensor in live.items()
            ]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self.check()

    def check_origin(self, live: Tensors, source: str) -> None:
        """Refuses a live tensor without the bytes of the first checkpoint, which lam 0 would not bring back.

        Raises:
            MismatchError: names the first such tensor.
        """
        isa = cpu.isa()
        for name, tensor in live.items():
            expected = torch.empty_like(tensor, device="cpu")
            _fill(self._inputs, Source(self._pairs[name], (0.0,)), expected, isa)
            if not same_bytes(tensor, expected):
                raise MismatchError(
                    f"{name}: the live values are not those of {source}",
                    "Give the folder the model was loaded from as base=, or keep both sides: resident=True.",
                )

    def close(self) -> None:
        self._inputs.__exit__()


def read_side(model: Checkpoint, rows: Iterable[Row], live: Tensors, host: bool) -> dict[str, torch.Tensor]:
    """The tensors of `model`, the second of each row, to where `Held` has them.

    In their own dtypes; what is computed (an FP8 weight and its scales, a base and its adapter) is kept as the float32
    that a merge of folders computes with, so that the bits are the same.
    """
    found = {}
    with Inputs([model.files]) as inputs:
        for row in rows:
            tensor, device = row.inputs[1], live[row.name].device
            stored = tensor.whole if isinstance(tensor, SavedTensor) else tensor
            dtype = _DTYPES["F32" if is_computed(stored) else stored.dtype]
            out = torch.empty(tensor.shape, dtype=dtype, pin_memory=host and device.type == "cuda")
            _fill(inputs, Source((tensor,), (0.0,)), out, cpu.isa())
            found[row.name] = out if host else out.to(device)
    model.check_unchanged()
    return found


def placed(tensor: torch.Tensor, device: torch.device, host: bool) -> torch.Tensor:
    """A copy of `tensor` for a live one on `device`: there, or in the host's memory, pinned for a GPU."""
    if not host:
        return tensor.detach().to(device, copy=True, memory_format=torch.contiguous_format)
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=device.type == "cuda")
    return copy.copy_(tensor.detach())


def same_bytes(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether two tensors of one dtype and shape have the same bits: -0 is not 0, and a NaN is itself."""
    return bool(torch.equal(*(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (x, y))))


def _fill(inputs: Inputs, source: Source, live: torch.Tensor, isa: str) -> None:
    """Computes `source` into `live`; where that is on another device, by way of one tensor's worth of memory."""
    out = live if live.device.type == "cpu" else torch.empty_like(live, device="cpu")
    like = TensorInfo("", FROM_TORCH[str(out.dtype)], tuple(out.shape), 0, 0, out.nbytes)
    if out.numel():
        fill_tensor(inputs, source, like, memoryview(out.view(-1).view(torch.uint8).numpy()), isa)
    if out is not live:
        live.copy_(out)


def _write_staged(live: torch.Tensor, a: torch.Tensor, b: torch.Tensor, weight: float) -> None:
    """From the host's memory, a stage at a time: the copies of one are queued while the one before is computed."""
    side = b if weight == 1 else a
    if weight in (0, 1) and side.dtype == live.dtype:
        live.copy_(side, non_blocking=True)
        return
    step = _STAGE // live.element_size()
    for first in range(0, live.numel(), step):
        out, one, two = (t.view(-1)[first : first + step] for t in (live, a, b))
        lerp(one.to(live.device, non_blocking=True), two.to(live.device, non_blocking=True), weight, out=out)
