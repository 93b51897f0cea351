"""Tensors to merge: random bits, placed where they are unaligned, and the shapes of real models."""

from __future__ import annotations

from typing import Any

import torch

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
_WHOLE = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def bits(x: Any) -> Any:
    """The tensor's bits, in which NaN equals itself and -0 differs from 0."""
    return x.view(_WHOLE[x.dtype])


def random_bits(n: int, dtype: Any, seed: int, device: Any = "cpu") -> Any:
    """n elements with every bit random: all exponents, subnormals, infinities and NaNs. Drawn on `device`.

    Eight bytes at a time: one a time takes seconds for the tensors of a large model.
    """
    generator = torch.Generator(device).manual_seed(seed)
    words = torch.empty(-(-n * dtype.itemsize // 8), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)  # without an upper end: all 64 bits
    return words.view(torch.uint8)[: n * dtype.itemsize].view(dtype)


def placed(x: Any, device: Any, offset: int = 0) -> Any:
    """`x` on the device, `offset` elements past an address that is a multiple of 16."""
    room = torch.empty(x.numel() + offset + 16, dtype=x.dtype, device=device)
    start = (-(room.data_ptr() // x.itemsize)) % (16 // x.itemsize) + offset
    view = room[start : start + x.numel()]
    view.copy_(x)
    return view


def qwen3_30b_a3b_shapes(layers: int = 48, experts: int = 128, shrink: int = 1) -> list[tuple[int, ...]]:
    """The shapes of Qwen3-30B-A3B (18,867 tensors at full size), every dimension of a matrix divided by `shrink`."""
    hidden, head, vocabulary, expert = 2048 // shrink, 128, 151936 // shrink, 768 // shrink
    layer = [
        *[(hidden,)] * 2,
        *[(head,)] * 2,
        (4096 // shrink, hidden),
        *[(512 // shrink, hidden)] * 2,
        (hidden, 4096 // shrink),
        (experts, hidden),
        *[(expert, hidden), (expert, hidden), (hidden, expert)] * experts,
    ]
    return [(vocabulary, hidden), *layer * layers, (hidden,), (vocabulary, hidden)]
