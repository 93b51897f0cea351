"""Models with ordinary numbers, and with NaN and inf at chosen places."""

from __future__ import annotations

import torch

from .models import Tensors, tiny

NAN, INF = float("nan"), float("inf")
UP, DOWN, EMBED = (
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.embed_tokens.weight",
)


def finite(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """As `tiny`, but with numbers as in a real model."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(t.shape, generator=generator).to(dtype) for n, t in tiny(seed).items()}


def put(tensors: Tensors, name: str, *values: tuple[int, float]) -> Tensors:
    for at, value in values:
        tensors[name].view(-1)[at] = value
    return tensors
