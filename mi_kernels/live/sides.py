"""Keep the two models of a live model between changes of lam, and write their merge into its parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from ..backends import cpu
from ..backends.pinned import CudaPinning, PinnedArena, pinned_size
from ..checkpoint.alignment import Row
from ..checkpoint.inputs import Inputs, value_dtype
from ..checkpoint.record import Checkpoint
from ..checkpoint.tensor import TensorInfo
from ..dtypes import FLOATS, FROM_TORCH, TORCH_NAMES
from ..errors import MismatchError
from ..merge.plan import Source
from ..merge.spans import fill_tensor
from ..ops.eager import increment_versions
from ..ops.linear import lerp
from ..ops.prepared import Prepared

Tensors = Mapping[str, torch.Tensor]

_STAGE = 64 << 20  # bytes of each model that are copied from pinned memory at a time
_DTYPES = {name: getattr(torch, TORCH_NAMES[name]) for name in FLOATS}


class Sides(Protocol):
    """The tensors of both models, by the names of the live model."""

    def check(self) -> None:
        """Checks that both models are unchanged. Call it before `write`.

        Raises:
            CheckpointError: a file of a model has changed.
        """

    def write(self, live: Tensors, weights: Mapping[str, float]) -> None:
        """Sets each tensor of `live` to the interpolation of its two models at its weight, in place.

        torch counts the write, so that autograd does not use a value that it saved before.
        """

    def close(self) -> None:
        """Releases memory and files."""


class TensorSides:
    """Both models as tensors, each on the device of its live tensor or in host memory. Nobody else may change them.

    Args:
        a, b: the tensors of both models.
        every: write every live tensor at each change, also those that hold their values already as far as torch knows.
    """

    def __init__(self, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], every: bool = False) -> None:
        self._a, self._b, self._every = a, b, every
        self._prepared: list[tuple[list[str], Prepared[torch.Tensor]]] = []  # for each device
        self._staged: list[str] = []
        self._for: Tensors | None = None  # the live tensors that are prepared

    def check(self) -> None:
        pass

    def write(self, live: Tensors, weights: Mapping[str, float]) -> None:
        """See `Sides.write`. If `live` is that of the last call, its tensors must be in the same memory as then."""
        if self._for is not live:
            self._prepare(live)
        for names, pairs in self._prepared:
            lams = np.fromiter(map(weights.__getitem__, names), np.float64, len(names))
            pairs.lerp_unmoved(lams, every=self._every)
        for name in self._staged:
            _write_staged(live[name].detach(), self._a[name], self._b[name], weights[name])

    def _prepare(self, live: Tensors) -> None:
        by_device: dict[torch.device, list[str]] = {}
        self._staged = []
        for name, tensor in live.items():
            if self._a[name].device == self._b[name].device == tensor.device:
                by_device.setdefault(tensor.device, []).append(name)
            else:
                self._staged.append(name)
        self._prepared = []
        for names in by_device.values():
            a, b, outs = ([side[name] for name in names] for side in (self._a, self._b, live))
            self._prepared.append((names, Prepared(a, b, outs, private=True)))
        self._for = live

    def close(self) -> None:
        self._a, self._b, self._prepared, self._for = {}, {}, [], None


class CheckpointSides:
    """Both models as checkpoints. Every change reads them through the page cache, and no tensor is kept.

    Args:
        models: the two checkpoints.
        rows: for each tensor the one of the live model and those of the two checkpoints.
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
                pool.submit(_fill, self._inputs, Source(self._pairs[name], (weights[name],)), tensor.detach(), isa)
                for name, tensor in live.items()
            ]
            increment_versions(list(live.values()))
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self.check()

    def check_origin(self, live: Tensors, source: str) -> None:
        """Checks that the live tensors have the bytes of the first checkpoint, which lam 0 restores.

        Raises:
            MismatchError: a tensor differs. The message names the first one.
        """
        isa = cpu.isa()
        for name, tensor in live.items():
            expected = torch.empty_like(tensor, device="cpu")
            _fill(self._inputs, Source(self._pairs[name], (0.0,)), expected, isa)
            if not same_bytes(tensor, expected):
                raise MismatchError(
                    f"{name}: the live model and {source} have different values",
                    "Pass the folder that the model was loaded from as base=, or use resident=True.",
                )

    def close(self) -> None:
        self._inputs.__exit__()


def read_side(model: Checkpoint, rows: Sequence[Row], live: Tensors, host: bool) -> dict[str, torch.Tensor]:
    """Reads the tensors of `model`, the second of each row, to the device of the live tensor or to host memory.

    They keep their dtype. Computed tensors (FP8 weights with scales, a base with an adapter) become float32, which a
    merge of folders uses for them too, so that the bits are the same.
    """
    kinds = {row.name: (row.inputs[1].shape, _DTYPES[value_dtype(row.inputs[1])]) for row in rows}
    pinned = host_tensors(kinds, {live[row.name].device for row in rows}) if host else {}
    found = {}
    with Inputs([model.files]) as inputs:
        for row in rows:
            shape, dtype = kinds[row.name]
            out = pinned[row.name] if host else torch.empty(tuple(shape), dtype=dtype)
            _fill(inputs, Source((row.inputs[1],), (0.0,)), out, cpu.isa())
            found[row.name] = out if host else out.to(live[row.name].device)
    model.check_unchanged()
    return found


def copies(tensors: Tensors, devices: Mapping[str, torch.device], host: bool) -> dict[str, torch.Tensor]:
    """Copies each tensor to its device, or with `host` to host memory, which is pinned if a device is a GPU."""
    if not host:
        return {
            name: t.detach().to(devices[name], copy=True, memory_format=torch.contiguous_format)
            for name, t in tensors.items()
        }
    memory = host_tensors({name: (t.shape, t.dtype) for name, t in tensors.items()}, set(devices.values()))
    return {name: memory[name].copy_(t.detach()) for name, t in tensors.items()}


def host_tensors(
    kinds: Mapping[str, tuple[Sequence[int], torch.dtype]], devices: Collection[torch.device]
) -> dict[str, torch.Tensor]:
    """Returns uninitialized tensors of these shapes and dtypes in one block, pinned if a device is a GPU.

    The block is unpinned and freed when no tensor of it is used any more.
    """
    gpus = [device for device in devices if device.type == "cuda"]
    sizes = (math.prod(shape) * dtype.itemsize for shape, dtype in kinds.values())
    arena = PinnedArena(pinned_size(sizes), CudaPinning(gpus) if gpus else None)
    return {name: arena.tensor(tuple(shape), dtype) for name, (shape, dtype) in kinds.items()}


def same_bytes(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Returns whether two tensors of one dtype and shape have the same bits: -0 differs from 0, a NaN equals itself."""
    return bool(torch.equal(*(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (x, y))))


def _fill(inputs: Inputs, source: Source, live: torch.Tensor, isa: str) -> None:
    """Computes `source` into `live`, through a buffer of the size of the tensor if `live` is not on the CPU."""
    out = live if live.device.type == "cpu" else torch.empty_like(live, device="cpu")
    like = TensorInfo("", FROM_TORCH[str(out.dtype)], tuple(out.shape), 0, 0, out.nbytes)
    if out.numel():
        fill_tensor(inputs, source, like, memoryview(out.view(-1).view(torch.uint8).numpy()), isa)
    if out is not live:
        live.copy_(out)


def _write_staged(live: torch.Tensor, a: torch.Tensor, b: torch.Tensor, weight: float) -> None:
    """Interpolates from host memory in stages: the copies of a stage are queued while the previous one is computed."""
    side = b if weight == 1 else a
    if weight in (0, 1) and side.dtype == live.dtype:
        live.copy_(side, non_blocking=True)
        return
    step = _STAGE // live.element_size()
    for first in range(0, live.numel(), step):
        out, one, two = (t.view(-1)[first : first + step] for t in (live, a, b))
        lerp(one.to(live.device, non_blocking=True), two.to(live.device, non_blocking=True), weight, out=out)
