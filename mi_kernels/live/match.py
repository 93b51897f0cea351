"""A live model's tensors, and their counterparts in another module or in checkpoints, all checked before use."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from ..checkpoint.alignment import Row, align
from ..checkpoint.open import open_checkpoint
from ..checkpoint.record import Checkpoint
from ..checkpoint.tensor import TensorInfo
from ..checkpoint.virtual import Tensor
from ..dtypes import FROM_TORCH
from ..errors import ArgumentError, DTypeError, MismatchError, shortened
from ..ops.overlap import find_overlap
from .sides import same_bytes

_HEAD = "lm_head.weight"
_ONE_FAMILY = "Both must be of one architecture and size."
_RENAMED = "transformers may rename and fuse tensors as it loads: load this model too, and pass the module instead."

T = TypeVar("T")


class Part(NamedTuple):
    """A tensor of the live model, once for all the names that share it."""

    names: tuple[str, ...]
    tensor: torch.Tensor

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def floating(self) -> bool:
        return str(self.tensor.dtype) in FROM_TORCH

    @property
    def kind(self) -> Hashable:
        """What must not change between two merges."""
        return self.names, self.tensor.dtype, self.tensor.device, self.tensor.shape


class Match(NamedTuple):
    """Checkpoints whose tensors are the live model's.

    Attributes:
        models: their tensors are those that are interpolated, under the live names.
        rows: (live, a checkpoint's, ...) of each tensor.
    """

    models: list[Checkpoint]
    rows: list[Row]


def located(source: Any) -> Checkpoint:
    """Raises: ArgumentError: neither a path nor an id. CheckpointError: as `open_checkpoint`."""
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentError(f"{type(source).__name__} is no model", "Give a torch module, a model folder or a Hub id.")
    return open_checkpoint(source)


def parts_of(model: torch.nn.Module, label: str) -> list[Part]:
    """Parameters and persistent buffers in the order of the state_dict, shared ones once.

    Raises:
        ArgumentError: a tensor without memory, of a subclass, not contiguous, or partly over another.
        DTypeError: a sparse one.
    """
    groups: dict[Hashable, list[str]] = {}
    tensors: dict[Hashable, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):  # a module may add a state of another kind
            _check_memory(name, tensor, label)
            groups.setdefault(_identity(tensor), []).append(name)
            tensors[_identity(tensor)] = tensor
    parts = [Part(tuple(names), tensors[key]) for key, names in groups.items()]
    _check_overlap(parts, {}, label)
    return parts


def _check_memory(name: str, tensor: torch.Tensor, label: str) -> None:
    plain = type(tensor.detach()) is torch.Tensor
    if tensor.layout != torch.strided:
        raise DTypeError(f"{name}: layout {tensor.layout} in {label}", "Only dense tensors can be interpolated.")
    if tensor.device.type == "meta" or not plain:
        what = "has no memory of its own (meta)" if plain else f"is a {type(tensor.detach()).__name__}"
        raise ArgumentError(
            f"{name}: {what} in {label}", "Load the model whole, not offloaded, sharded or quantised, and attach again."
        )
    if not tensor.is_contiguous():
        raise ArgumentError(f"{name}: not contiguous in {label}", "Replace it by its .contiguous().")


def _identity(tensor: torch.Tensor) -> Hashable:
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape


def _check_overlap(parts: Sequence[Part], other: Mapping[str, torch.Tensor], label: str) -> None:
    """Refuses live tensors that lie partly over each other or over a tensor of the other side."""
    rows = [(part.tensor, other.get(part.name, part.tensor)) for part in parts]
    addresses = np.array([[x.data_ptr(), x.data_ptr(), y.data_ptr()] for x, y in rows], np.int64).reshape(-1, 3)
    sizes = np.array([[x.nbytes, x.nbytes, y.nbytes] for x, y in rows], np.int64).reshape(-1, 3)
    clash = find_overlap(addresses, sizes)
    shared = [
        part.name for part in parts if part.name in other and _identity(part.tensor) == _identity(other[part.name])
    ]
    if clash is not None or shared:
        name = parts[clash[0]].name if clash is not None else shared[0]
        raise ArgumentError(f"{name}: shares memory with another tensor of {label}", "Give each a copy of its own.")


def check_others(parts: Sequence[Part], other: torch.nn.Module, same_device: bool) -> dict[str, torch.Tensor]:
    """The tensors of `other` that are interpolated, under the live names.

    Raises:
        MismatchError: names, shapes, dtypes or ties that differ; names the tensor and both values.
        ArgumentError: a device that differs, shared memory, or as `parts_of`.
    """
    label = "the other model"
    held = {name: part for part in parts_of(other, label) for name in part.names}
    found = _resolve(parts, held, label, _ONE_FAMILY)
    tensors = {name: part.tensor for name, part in found.items()}
    for part in parts:
        x, y = part.tensor, tensors[part.name]
        for what, one, two in (("shape", list(x.shape), list(y.shape)), ("dtype", x.dtype, y.dtype)):
            if one != two:
                raise MismatchError(
                    f"{part.name}: {what} {one} in the live model, {two} in {label}",
                    f"Convert it: other.to({one})." if what == "dtype" else _ONE_FAMILY,
                )
        if part.floating and same_device and x.device != y.device:
            raise ArgumentError(
                f"{part.name}: on {x.device} in the live model, on {y.device} in {label}",
                f'Move it, other.to("{x.device}"), or keep both in the host\'s memory: resident="host".',
            )
        if not part.floating and not same_bytes(x, y):
            raise _fixed_differs(part, label)
    floating = {part.name: tensors[part.name].detach() for part in parts if part.floating}
    _check_overlap([part for part in parts if part.floating], floating, "the two models")
    return floating


def match(parts: Sequence[Part], models: Sequence[Checkpoint]) -> Match:
    """The checkpoints' tensors for each live one; all but the last must have the live dtypes.

    Raises:
        MismatchError: as `check_others`.
    """
    floats, resolved = [part for part in parts if part.floating], []
    for model in models:
        # A tied head that only the file leaves out is `align`'s to find.
        absent = {_HEAD} if model.tied else set()
        found = _resolve(parts, model.tensors, model.source, _RENAMED, absent, keep_first=model.tied)
        for part in parts:
            if not part.floating:
                _check_fixed(part, model, found[part.name])
        resolved.append(replace(model, tensors={p.name: found[p.name] for p in floats if p.name in found}))
    tied = any(len(part.names) > 1 for part in parts)
    live: dict[str, Tensor] = {part.name: _described(part) for part in floats}
    described = Checkpoint("the live model", "", [], live, {}, {"tie_word_embeddings": tied})
    for model in resolved:
        _check_dtypes(live, model, exact=model is not resolved[-1])
    return Match(resolved, align([described, *resolved]).rows)


def _described(part: Part) -> TensorInfo:
    t = part.tensor
    return TensorInfo(part.name, FROM_TORCH[str(t.dtype)], tuple(t.shape), 0, 0, t.nbytes)


def _resolve(
    parts: Sequence[Part],
    held: Mapping[str, T],
    label: str,
    remedy: str,
    absent: Iterable[str] = (),
    keep_first: bool = False,
) -> dict[str, T]:
    """What `held` has for each live tensor, under any of its names."""
    known = {name for part in parts for name in part.names}
    extra = [name for name in held if name not in known]
    if extra:
        raise MismatchError(f"{label} has {shortened(extra)}, which the live model lacks", remedy)
    found: dict[str, T] = {}
    missing = []
    for part in parts:
        present = {id(held[name]): held[name] for name in part.names if name in held}
        if len(present) > 1 and not keep_first:
            raise MismatchError(
                f"{' and '.join(part.names)}: one tensor in the live model, {len(present)} in {label}",
                "Untie them in the live model first, so that each can have a value of its own.",
            )
        if present:
            found[part.name] = next(iter(present.values()))
        elif part.name not in absent:
            missing.append(part.name)
    if missing:
        raise MismatchError(f"the live model has {shortened(missing)}, which {label} lacks", remedy)
    return found


def _check_dtypes(live: Mapping[str, Tensor], model: Checkpoint, exact: bool) -> None:
    for name, tensor in model.tensors.items():
        mine = live[name].dtype
        if tensor.dtype not in FROM_TORCH.values() or (exact and tensor.dtype != mine):
            raise MismatchError(
                f"{name}: {mine} in the live model, {tensor.dtype} in {model.source}",
                "Load the model in the dtype of its file, or keep both sides: resident=True."
                if exact
                else "Only bf16, float16 and float32 can be interpolated.",
            )


def _check_fixed(part: Part, model: Checkpoint, tensor: Tensor) -> None:
    """What cannot be interpolated must be the same in both."""
    same = isinstance(tensor, TensorInfo) and tensor.nbytes == part.tensor.nbytes
    if same:
        assert isinstance(tensor, TensorInfo)
        with open(model.files[tensor.shard], "rb") as file:
            file.seek(tensor.begin)
            theirs = torch.frombuffer(bytearray(file.read(tensor.nbytes)) or bytearray(1), dtype=torch.uint8)
        mine = part.tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        same = tensor.nbytes == 0 or torch.equal(mine, theirs)
    if not same:
        raise _fixed_differs(part, model.source)


def _fixed_differs(part: Part, label: str) -> MismatchError:
    return MismatchError(
        f"{part.name}: {part.tensor.dtype} tensors differ between the live model and {label}",
        "Only bf16, float16 and float32 can be interpolated: dequantise or convert the models first.",
    )
