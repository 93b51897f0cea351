"""A model that loads checkpoints as vLLM does: fused, padded, split over workers by layers and by rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

_FUSED = {
    **{f"{one}_proj": ("qkv_proj", "qkv".index(one), 3) for one in "qkv"},
    **{f"{one}_proj": ("gate_up_proj", i, 2) for i, one in enumerate(("gate", "up"))},
}
_PADDING = 6  # rows of zeros after the embedding and the head


class FusedModel(torch.nn.Module):
    """One worker's part of a Qwen3.

    Args:
        shapes: the shapes of the checkpoint's tensors, by name.
        stage, stages: this worker's number, and the number of workers that share the layers (pipeline parallelism). The
            first one has the embedding, the last one the final norm and the head. Layers keep their numbers.
        rank, ranks: this worker's slice of the rows of each matrix (tensor parallelism).
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        stage: int = 0,
        stages: int = 1,
        rank: int = 0,
        ranks: int = 1,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__()
        depth = 1 + max(int(m[1]) for m in (re.search(r"layers\.(\d+)", name) for name in shapes) if m)
        self._rank, self._ranks = rank, ranks
        self._places: dict[str, tuple[str, int]] = {}  # checkpoint's name -> parameter, its first row there
        rows: dict[str, int] = {}
        widths: dict[str, tuple[int, ...]] = {}
        for name, shape in shapes.items():
            layer = re.search(r"layers\.(\d+)", name)
            held = int(layer[1]) * stages // depth if layer else 0 if "embed" in name else stages - 1
            if held != stage:
                continue
            fused = name
            for one, (whole, _, _) in _FUSED.items():
                fused = fused.replace(f".{one}.", f".{whole}.")
            self._places[name] = (fused, rows.get(fused, 0))
            rows[fused] = rows.get(fused, 0) + self._count(shape)
            widths[fused] = tuple(shape[1:])
        for name, count in rows.items():
            padding = _PADDING if "embed" in name or "head" in name else 0
            put(self, name, torch.nn.Parameter(torch.zeros(count + padding, *widths[name], dtype=dtype)))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        parameters = dict(self.named_parameters())
        for name, tensor in weights:
            if name in self._places:
                fused, first = self._places[name]
                count = self._count(tensor.shape)
                part = tensor[self._rank * count :][:count] if tensor.ndim > 1 else tensor
                parameters[fused].data[first : first + count].copy_(part)

    def _count(self, shape: tuple[int, ...]) -> int:
        return shape[0] // self._ranks if len(shape) > 1 else shape[0]


def put(model: torch.nn.Module, name: str, value: torch.nn.Parameter | torch.Tensor) -> None:
    """Registers a parameter, or sets an attribute, under a name with dots."""
    *path, last = name.split(".")
    for part in path:
        if part not in model._modules:
            model.add_module(part, torch.nn.Module())
        model = model._modules[part]
    setattr(model, last, value)
