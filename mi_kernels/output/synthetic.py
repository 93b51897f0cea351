"""Writes synthetic checkpoints with the layout of a real model, for the demo, the tests and the benchmarks."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.names import layer_count
from .layout import shard_names

Shapes = dict[str, tuple[int, ...]]


def qwen3_shapes(
    *,
    hidden: int,
    layers: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 128,
    vocab: int = 151_936,
    tied: bool = True,
    experts: int = 0,
    expert_ffn: int = 0,
) -> Shapes:
    """Returns names and shapes of a Qwen3 model in file order: dense, or a mixture of experts if `experts` > 0."""
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes[p + "input_layernorm.weight"] = (hidden,)
        owners = [(f"experts.{e}.", expert_ffn) for e in range(experts)] or [("", ffn)]
        for owner, width in owners:
            shapes[f"{p}mlp.{owner}down_proj.weight"] = (hidden, width)
            shapes[f"{p}mlp.{owner}gate_proj.weight"] = (width, hidden)
            shapes[f"{p}mlp.{owner}up_proj.weight"] = (width, hidden)
        if experts:
            shapes[p + "mlp.gate.weight"] = (experts, hidden)
        shapes[p + "post_attention_layernorm.weight"] = (hidden,)
        shapes[p + "self_attn.k_norm.weight"] = (head_dim,)
        shapes[p + "self_attn.k_proj.weight"] = (kv_heads * head_dim, hidden)
        shapes[p + "self_attn.o_proj.weight"] = (hidden, heads * head_dim)
        shapes[p + "self_attn.q_norm.weight"] = (head_dim,)
        shapes[p + "self_attn.q_proj.weight"] = (heads * head_dim, hidden)
        shapes[p + "self_attn.v_proj.weight"] = (kv_heads * head_dim, hidden)
    shapes["model.norm.weight"] = (hidden,)
    return shapes


def qwen3_like(nbytes: int) -> Shapes:
    """Returns names and shapes of a small Qwen3 model of about `nbytes` bytes in bf16, with realistic proportions."""
    vocab, hidden = 16_384, 1024

    def model(layers: int) -> Shapes:
        return qwen3_shapes(hidden=hidden, layers=layers, ffn=3072, heads=16, kv_heads=8, vocab=vocab)

    per_layer = sum(2 * math.prod(shape) for name, shape in model(1).items() if "layers" in name)
    return model(max(1, (nbytes - 2 * vocab * hidden) // per_layer))


def qwen3_config(shapes: Shapes) -> dict[str, Any]:
    """Returns the config.json for the result of `qwen3_shapes`."""
    vocab, hidden = shapes["model.embed_tokens.weight"]
    attention = "model.layers.0.self_attn."
    head_dim = shapes[attention + "q_norm.weight"][0]
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layer_count(shapes),
        "num_attention_heads": shapes[attention + "q_proj.weight"][0] // head_dim,
        "num_key_value_heads": shapes[attention + "k_proj.weight"][0] // head_dim,
        "head_dim": head_dim,
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "dtype": "bfloat16",
    }
    if "model.layers.0.mlp.gate.weight" in shapes:
        config["architectures"], config["model_type"] = ["Qwen3MoeForCausalLM"], "qwen3_moe"
        config["num_experts"] = shapes["model.layers.0.mlp.gate.weight"][0]
        config["moe_intermediate_size"] = shapes["model.layers.0.mlp.experts.0.gate_proj.weight"][0]
    else:
        config["intermediate_size"] = shapes["model.layers.0.mlp.gate_proj.weight"][0]
    return config


def write_checkpoint(
    folder: Path,
    shapes: Shapes,
    *,
    seed: int,
    shards: int = 1,
    config: dict[str, Any] | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes bf16 tensors with the given `shapes` to `folder`, in `shards` files with an index (one file: no index).

    The values are normal with standard deviation 0.02. Each tensor takes them from a pool of 2^22 values, starting at
    a random position: this is fast, and all tensors differ. `on_bytes` is called with each number of bytes written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(1 << 22, dtype=np.float32) * np.float32(0.02)
    pool = (normal.view(np.uint32) >> 16).astype(np.uint16)
    total = sum(2 * math.prod(s) for s in shapes.values())
    groups: list[list[str]] = [[] for _ in range(shards)]
    done = 0
    for name in shapes:
        groups[min(shards - 1, done * shards // max(total, 1))].append(name)
        done += 2 * math.prod(shapes[name])
    files = shard_names(shards)
    for file, group in zip(files, groups):
        _write_shard(folder / file, {name: shapes[name] for name in group}, pool, rng, on_bytes)
    if shards > 1:
        weight_map = {name: file for file, group in zip(files, groups) for name in group}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(config or qwen3_config(shapes), indent=2))


def _write_shard(
    path: Path, shapes: Shapes, pool: Any, rng: np.random.Generator, on_bytes: Callable[[int], None]
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            left = math.prod(shape)
            start = int(rng.integers(pool.size))
            while left:
                part = pool[start : start + left]
                on_bytes(file.write(part.tobytes()))
                left, start = left - part.size, 0
