"""Match the tensors of a live model with those of another module or of checkpoints, and check them all before use."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from ..checkpoint import experts
from ..checkpoint.alignment import Row, align
from ..checkpoint.auxiliary import kind_of, prediction_layers
from ..checkpoint.open import open_checkpoint
from ..checkpoint.record import Checkpoint
from ..checkpoint.spelling import renamed
from ..checkpoint.tensor import TensorInfo
from ..checkpoint.ties import same_values
from ..checkpoint.virtual import Tensor
from ..dtypes import FROM_TORCH
from ..errors import ArgumentError, DTypeError, MismatchError, shortened
from ..ops.overlap import find_overlap
from .sides import same_bytes

_HEAD = "lm_head.weight"
_ONE_FAMILY = "Use two models of the same architecture and size."
_RENAMED = "transformers may rename and fuse tensors while loading. Load this model too, and pass the module instead."

T = TypeVar("T")


class Part(NamedTuple):
    """A tensor of the live model, and all names that share it."""

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
        """The properties that must not change between two calls of `set_lam`."""
        return self.names, self.tensor.dtype, self.tensor.device, self.tensor.shape


class Match(NamedTuple):
    """Checkpoints whose tensors match those of the live model.

    Attributes:
        models: the checkpoints, restricted to the tensors to interpolate, under the names of the live model.
        rows: for each tensor the one of the live model, followed by the one of each checkpoint.
    """

    models: list[Checkpoint]
    rows: list[Row]


def open_source(source: Any) -> Checkpoint:
    """Opens the checkpoint of a folder or Hub id.

    Raises:
        ArgumentError: `source` is not a path or id.
        CheckpointError: see `open_checkpoint`.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentError(
            f"a model of type {type(source).__name__} is not supported",
            "Pass a torch module, a model folder or a Hub id.",
        )
    return open_checkpoint(source)


def parts_of(model: torch.nn.Module, label: str) -> list[Part]:
    """Returns parameters and persistent buffers in the order of the state_dict, and shared ones once.

    Args:
        label: the name of the model in messages.

    Raises:
        ArgumentError: a tensor has no memory, is not a plain Tensor, is not contiguous, or partly overlaps another.
        DTypeError: a tensor is sparse.
    """
    groups: dict[Hashable, list[str]] = {}
    tensors: dict[Hashable, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):  # a module may add other objects to its state
            _check_memory(name, tensor, label)
            groups.setdefault(_identity(tensor), []).append(name)
            tensors[_identity(tensor)] = tensor
    parts = [Part(tuple(names), tensors[key]) for key, names in groups.items()]
    _check_overlap(parts, {}, label)
    return parts


def _check_memory(name: str, tensor: torch.Tensor, label: str) -> None:
    plain = type(tensor.detach()) is torch.Tensor
    if tensor.layout != torch.strided:
        raise DTypeError(
            f"{name}: layout {tensor.layout} in {label}, but only dense tensors can be interpolated",
            "Replace the parameter by its .to_dense().",
        )
    if tensor.device.type == "meta" or not plain:
        what = "has no memory (meta device)" if plain else f"is a {type(tensor.detach()).__name__}"
        raise ArgumentError(
            f"{name}: {what} in {label}",
            "Load the whole model, not offloaded, sharded or quantised, and attach again.",
        )
    if not tensor.is_contiguous():
        raise ArgumentError(f"{name}: not contiguous in {label}", "Replace the parameter by its .contiguous().")


def _identity(tensor: torch.Tensor) -> Hashable:
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape


def _check_overlap(parts: Sequence[Part], other: Mapping[str, torch.Tensor], label: str) -> None:
    """Raises an error if live tensors partly overlap each other, or share memory with a tensor of the other model."""
    rows = [(part.tensor, other.get(part.name, part.tensor)) for part in parts]
    addresses = np.array([[x.data_ptr(), x.data_ptr(), y.data_ptr()] for x, y in rows], np.int64).reshape(-1, 3)
    sizes = np.array([[x.nbytes, x.nbytes, y.nbytes] for x, y in rows], np.int64).reshape(-1, 3)
    clash = find_overlap(addresses, sizes)
    shared = [
        part.name for part in parts if part.name in other and _identity(part.tensor) == _identity(other[part.name])
    ]
    if clash is not None or shared:
        name = parts[clash[0]].name if clash is not None else shared[0]
        raise ArgumentError(f"{name}: shares memory with another tensor of {label}", "Give each tensor its own copy.")


def check_others(parts: Sequence[Part], other: torch.nn.Module, same_device: bool) -> dict[str, torch.Tensor]:
    """Returns the tensors of `other` to interpolate, under the names of the live model.

    Raises:
        MismatchError: names, shapes, dtypes or ties differ. The message names the tensor and both values.
        ArgumentError: devices differ, models share memory, or see `parts_of`.
        DTypeError: see `parts_of`.
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
                    f"Convert the other model: other.to({one})." if what == "dtype" else _ONE_FAMILY,
                )
        if part.floating and same_device and x.device != y.device:
            raise ArgumentError(
                f"{part.name}: on {x.device} in the live model, on {y.device} in {label}",
                f'Move the other model, other.to("{x.device}"), or keep both in host memory with resident="host".',
            )
        if not part.floating and not same_bytes(x, y):
            raise _fixed_differs(part, label)
    floating = {part.name: tensors[part.name].detach() for part in parts if part.floating}
    _check_overlap([part for part in parts if part.floating], floating, "the two models")
    return floating


def match(parts: Sequence[Part], models: Sequence[Checkpoint]) -> Match:
    """Returns the tensors of the checkpoints for each live tensor.

    All checkpoints but the last must have the dtypes of the live model.

    Raises:
        MismatchError: see `check_others`.
    """
    floats, resolved = [part for part in parts if part.floating], []
    for model in models:
        # `align` finds a tied head that the file omits.
        absent = {_HEAD} if model.tied else set()
        held = _under_live_names(parts, model)
        found = _resolve(parts, held, model.source, _RENAMED, absent, partial(same_values, model))
        for part in parts:
            if not part.floating:
                _check_fixed(part, model, found[part.name])
        resolved.append(replace(model, tensors={p.name: found[p.name] for p in floats if p.name in found}))
    tied = any(len(part.names) > 1 for part in parts)
    live: dict[str, Tensor] = {part.name: _described(part) for part in floats}
    described = Checkpoint("the live model", "", [], live, {}, {"tie_word_embeddings": tied})
    for model in resolved:
        _check_dtypes(live, model, exact=model is not resolved[-1])
    rows = align([described, *resolved]).rows
    for row in rows:
        if row.common is not None or row.kept is not None:
            raise MismatchError(
                f"{row.name}: has another shape in the live model than in one of the files", _ONE_FAMILY
            )
    return Match(resolved, rows)


def _under_live_names(parts: Sequence[Part], model: Checkpoint) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint under the names and in the layout of the live model.

    transformers renames and fuses tensors while it loads them; see modules `spelling` and `experts`. Tensors that the
    live model does not have because transformers never loads them are left out; see module `auxiliary`.
    """
    live = {name: _described(part) for part in parts if part.floating for name in part.names}
    known = {name for part in parts for name in part.names}
    new = {change.old: change.new for change in renamed(model.tensors, known)}
    held, _ = experts.unify(live, {new.get(name, name): t for name, t in model.tensors.items()}, model.config)
    predicting = prediction_layers(model)
    return {name: t for name, t in held.items() if name in known or kind_of(name, t, predicting) is None}


def _described(part: Part) -> TensorInfo:
    t = part.tensor
    return TensorInfo(part.name, FROM_TORCH[str(t.dtype)], tuple(t.shape), 0, 0, t.nbytes)


def _resolve(
    parts: Sequence[Part],
    held: Mapping[str, T],
    label: str,
    remedy: str,
    absent: Iterable[str] = (),
    alike: Callable[[T, T], bool] = lambda one, two: False,
) -> dict[str, T]:
    """Returns the entry of `held` for each live tensor, under any of its names.

    Args:
        absent: live tensors that `held` may lack.
        alike: whether two entries for tied live tensors are equal, so that either can be used.

    Raises:
        MismatchError: `held` has other tensors, lacks some, or has several for tied ones.
    """
    known = {name for part in parts for name in part.names}
    extra = [name for name in held if name not in known]
    if extra:
        raise MismatchError(f"{label} has {shortened(extra)}, which the live model does not have", remedy)
    found: dict[str, T] = {}
    missing = []
    for part in parts:
        present = list({id(held[name]): held[name] for name in part.names if name in held}.values())
        if not all(alike(present[0], other) for other in present[1:]):
            raise MismatchError(
                f"{' and '.join(part.names)}: one tensor in the live model, {len(present)} in {label}",
                "Untie them in the live model first, so that each can have its own values.",
            )
        if present:
            found[part.name] = present[0]
        elif part.name not in absent:
            missing.append(part.name)
    if missing:
        raise MismatchError(f"the live model has {shortened(missing)}, which {label} does not have", remedy)
    return found


def _check_dtypes(live: Mapping[str, Tensor], model: Checkpoint, exact: bool) -> None:
    for name, tensor in model.tensors.items():
        mine = live[name].dtype
        if tensor.dtype not in FROM_TORCH.values() or (exact and tensor.dtype != mine):
            raise MismatchError(
                f"{name}: {mine} in the live model, {tensor.dtype} in {model.source}",
                "Load the live model in the dtype of its files, or use resident=True."
                if exact
                else "Convert the model to bf16, float16 or float32 first.",
            )


def _check_fixed(part: Part, model: Checkpoint, tensor: Tensor) -> None:
    """Raises an error if a tensor that cannot be interpolated differs between the models."""
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
        f"{part.name}: {part.tensor.dtype} values differ between the live model and {label}",
        "Dequantise or convert the models first: only bf16, float16 and float32 can be interpolated.",
    )
