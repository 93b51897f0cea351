"""Layouts of real models, for benchmark checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mi_kernels.synthetic import Shapes, qwen3_shapes

# The published configurations of Qwen3.
MODELS: dict[str, Callable[[], Shapes]] = {
    "0.6B": partial(qwen3_shapes, hidden=1024, layers=28, ffn=3072, heads=16, kv_heads=8),
    "1.7B": partial(qwen3_shapes, hidden=2048, layers=28, ffn=6144, heads=16, kv_heads=8),
    "4B": partial(qwen3_shapes, hidden=2560, layers=36, ffn=9728, heads=32, kv_heads=8),
    "30B-A3B": partial(
        qwen3_shapes,
        hidden=2048,
        layers=48,
        ffn=0,
        heads=32,
        kv_heads=4,
        tied=False,
        experts=128,
        expert_ffn=768,
    ),
}
