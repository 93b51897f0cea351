"""Test that a live model becomes the merge: a changed lam must give the same bits as loading that lam afresh.

Changing lam by copies relies on loading being element-wise: fusing, sharding and padding commute with interpolation.
Some transforms do not. Mamba layers keep A = -exp(A_log), and a parameter that is wider than the checkpoint's dtype is
not rounded like the merge. Other tensors are computed once from the weights, and nothing computes them again. So the
tensors of a model whose lam was changed are compared with those of the same architecture loaded at that lam.

The two models never exist at the same time: the first one leaves only a digest of each tensor. This module needs torch
but not vLLM.

Example:
    >>> import torch
    >>> from mi_kernels.integrations.vllm.self_check import differences, fingerprints
    >>> model = torch.nn.Linear(2, 2)
    >>> before = fingerprints(model)
    >>> _ = model.bias.data.add_(1)
    >>> differences(before, fingerprints(model))
    ['bias']
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from ...errors import MismatchError, shortened
from ...recipe.interpolation import Recipe

# At least one half: for a tensor that only one model has, lam below 0.5 turns -0 into 0, and a fresh load copies it.
_LAMS = (0.5, 0.75, 0.625)

# Words of 8 bytes that are hashed at a time: temporaries fit a CPU's caches, and keep a GPU busy.
_CHUNK = {"cpu": 1 << 16}
_DEVICE_CHUNK = 1 << 22
_DEPTH = 5  # of objects within an attribute of a module
# Objects of these packages hold settings, communication buffers or torch's own state, and no weights.
_FOREIGN = ("torch", "transformers", "vllm.config", "vllm.distributed", "vllm.platforms", "logging", "threading")


class Fingerprint(NamedTuple):
    """What is compared of a tensor. Equal digests mean equal bits, up to a chance of 2^-64 for each tensor."""

    dtype: str
    shape: tuple[int, ...]
    digest: int


Fingerprints = dict[str, Fingerprint]


@dataclass(frozen=True)
class SelfCheck:
    """The result of a self-check of one worker.

    Attributes:
        way: how this worker changes lam: "copies" of both models, or "reload".
        lam: the lam at which the tensors were compared.
        compared: the number of tensors compared.
        different: the names of tensors that differ.
        ignored: the names of tensors that two fresh loads of the same merge do not agree on, such as scratch memory.
            They are not compared.
    """

    way: str
    lam: float
    compared: int
    different: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SelfCheck:
        """Reads what `dataclasses.asdict` gives, after it has passed through JSON or msgpack."""
        listed = {key: tuple(content[key]) for key in ("different", "ignored")}
        return cls(**{**content, **listed})

    def require(self) -> None:
        """Raises an error if lam must not be changed.

        Raises:
            MismatchError: a tensor differs. The message names some of them.
        """
        if not self.different:
            return
        count, names = len(self.different), shortened(list(self.different))
        raise MismatchError(
            f"{count:,} of {self.compared:,} tensors ({names}) differ between lam changed to {self.lam} by "
            f"{self.way} and lam {self.lam} loaded afresh",
            "vLLM transforms or keeps them in a way that does not follow a change of lam. Serve without live, or merge "
            "into a folder with `mi-kernels lerp` and serve that folder.",
        )


def checked_lam(recipe: Recipe, names: Iterable[str]) -> float:
    """Returns a lam that no tensor of the merge of `recipe` has, so that a tensor that stays as it was is different."""
    weights = set(recipe.weights(list(names)).values())
    return next((lam for lam in _LAMS if lam not in weights), 0.875)


def fingerprints(model: torch.nn.Module, more: Iterable[tuple[str, torch.Tensor]] = ()) -> Fingerprints:
    """Returns a fingerprint of every parameter, buffer and other tensor of a model.

    Args:
        model: the model, on any device.
        more: further tensors, by name.
    """
    known: dict[tuple[Any, ...], Fingerprint] = {}  # tied tensors are hashed once
    found = {}
    for name, tensor in (*tensors(model), *more):
        if tensor.is_meta or isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            continue
        dense = tensor.layout == torch.strided
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if dense else (name,)
        if key not in known:
            known[key] = Fingerprint(str(tensor.dtype), tuple(tensor.shape), digest(tensor))
        found[name] = known[key]
    return found


def differences(expected: Mapping[str, Fingerprint], found: Mapping[str, Fingerprint]) -> list[str]:
    """Returns the names of tensors that differ, or that only one of the two models has."""
    return sorted(name for name in {**expected, **found} if expected.get(name) != found.get(name))


def tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every parameter, buffer and other tensor of each module, with a name such as "layers.0.attn.sinks".

    Tensors are also found in lists, dicts, objects and functions that an attribute of a module holds.
    """
    seen = {id(module) for module in model.modules()}
    for path, module in model.named_modules():
        for name, value in {**module._parameters, **module._buffers}.items():
            if value is not None:
                yield from _flat(_joined(path, name), value)
        for name, value in vars(module).items():
            if name not in _TORCHS_OWN:
                yield from _within(_joined(path, name), value, seen, _DEPTH)


# What every module has: its parameters, buffers and submodules, which are visited by name, and hooks.
_TORCHS_OWN = frozenset(vars(torch.nn.Module()))


def digest(tensor: torch.Tensor) -> int:
    """Returns a 64-bit digest of the bits of a tensor, computed on its device in chunks. NaN equals itself by its bits.

    Each word w at position i adds mix(w + (i + 1) c) modulo 2^64, where mix is the finaliser of SplitMix64 (Steele, Lea
    and Flood, "Fast splittable pseudorandom number generators", 2014). A sum does not depend on the order of threads.
    """
    tensor = tensor.detach().as_subclass(torch.Tensor)  # vLLM's parameters have functions of their own
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    words = _words(tensor.contiguous())
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    step = _CHUNK.get(tensor.device.type, _DEVICE_CHUNK)
    for first in range(0, words.numel(), step):
        piece = words[first : first + step]
        at = torch.arange(first + 1, first + 1 + piece.numel(), dtype=torch.int64, device=tensor.device)
        total += _mix(at.mul_(_signed(0x9E3779B97F4A7C15)).add_(piece)).sum()
    return int(total.item())


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Changes `x` in place."""
    x.bitwise_xor_(_shifted(x, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(_shifted(x, 27)).mul_(_signed(0x94D049BB133111EB))
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifts to the right with zeros. torch shifts copies of the sign in."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the bytes of a contiguous tensor as the widest integers that its size and its place in memory allow."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    raw = tensor.reshape(-1).view(torch.uint8)
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    size = next(k for k in kinds if raw.numel() % k == 0 and raw.storage_offset() % k == 0)
    return raw.view(kinds[size])


def _within(path: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the tensors that `value` is or holds, each object once."""
    if isinstance(value, torch.Tensor):
        yield from _flat(path, value)
        return
    held = _held(value)
    if held is None or depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    for name, inner in held:
        yield from _within(f"{path}.{name}", inner, seen, depth - 1)


def _held(value: Any) -> Iterable[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return [(str(key), inner) for key, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(i), inner) for i, inner in enumerate(value)]
    if isinstance(value, partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or ())
        return [(name, cell.cell_contents) for name, cell in cells if _filled(cell)]
    kind = type(value)
    if isinstance(value, (type, types.ModuleType)) or not hasattr(value, "__dict__"):
        return None
    if isinstance(value, torch.nn.Module):  # one that is not registered
        own = [(name, inner) for name, inner in vars(value).items() if name not in _TORCHS_OWN]
        return [*value._parameters.items(), *value._buffers.items(), *value._modules.items(), *own]
    if any(kind.__module__ == name or kind.__module__.startswith(f"{name}.") for name in _FOREIGN):
        return None
    if kind.__name__.endswith("Handler"):  # vLLM's handles of packed weights hold the address of an object in C++
        return None
    return list(vars(value).items())


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _flat(path: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields a tensor, or the tensors inside a wrapper such as TorchAO's."""
    if hasattr(type(tensor), "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _flat(f"{path}.{name}", getattr(tensor, name))
    else:
        yield path, tensor


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
