"""Model folders of published sizes that need no disk space: real headers, an index, and sparse shards.

Names, shapes, dtypes and numbers of files are those of the published models.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mi_kernels.output.layout import shard_names
from mi_kernels.output.synthetic import qwen3_config, qwen3_shapes

Entry = tuple[str, str, tuple[int, ...]]  # name, dtype, shape
_SIZE = {"BF16": 2, "F32": 4, "F8_E4M3": 1}
_BLOCK = 128


def qwen3_235b(folder: Path, layers: int = 94, shards: int = 118) -> Path:
    """Qwen3-235B-A22B: 94 layers with 128 experts each, in bf16."""
    shapes = qwen3_shapes(
        hidden=4096,
        layers=layers,
        ffn=0,
        heads=64,
        kv_heads=4,
        tied=False,
        experts=128,
        expert_ffn=1536,
    )
    return write(folder, [(name, "BF16", shape) for name, shape in shapes.items()], shards, qwen3_config(shapes))


def deepseek_671b(folder: Path, layers: int = 61, shards: int = 163) -> Path:
    """DeepSeek-V3 without its module for multi-token prediction: 61 layers, 58 of 256 experts, in FP8 with scales."""
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "num_hidden_layers": layers,
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [_BLOCK, _BLOCK]},
        "tie_word_embeddings": False,
    }
    return write(folder, list(_deepseek(layers)), shards, config)


def _deepseek(layers: int, hidden: int = 7168, heads: int = 128) -> Iterator[Entry]:
    yield "model.embed_tokens.weight", "BF16", (129_280, hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        for name, width in (("input_layernorm", hidden), ("post_attention_layernorm", hidden)):
            yield f"{p}{name}.weight", "BF16", (width,)
        yield f"{p}self_attn.q_a_layernorm.weight", "BF16", (1536,)
        yield f"{p}self_attn.kv_a_layernorm.weight", "BF16", (512,)
        yield from _fp8(f"{p}self_attn.q_a_proj", 1536, hidden)
        yield from _fp8(f"{p}self_attn.q_b_proj", heads * 192, 1536)
        yield from _fp8(f"{p}self_attn.kv_a_proj_with_mqa", 576, hidden)
        yield from _fp8(f"{p}self_attn.kv_b_proj", heads * 256, 512)
        yield from _fp8(f"{p}self_attn.o_proj", hidden, heads * 128)
        owners = [("", 18_432)]
        if i >= 3:
            yield f"{p}mlp.gate.weight", "BF16", (256, hidden)
            yield f"{p}mlp.gate.e_score_correction_bias", "F32", (256,)
            owners = [(f"experts.{e}.", 2048) for e in range(256)] + [("shared_experts.", 2048)]
        for owner, width in owners:
            yield from _fp8(f"{p}mlp.{owner}gate_proj", width, hidden)
            yield from _fp8(f"{p}mlp.{owner}up_proj", width, hidden)
            yield from _fp8(f"{p}mlp.{owner}down_proj", hidden, width)
    yield "model.norm.weight", "BF16", (hidden,)
    yield "lm_head.weight", "BF16", (129_280, hidden)


def _fp8(name: str, rows: int, columns: int) -> Iterator[Entry]:
    yield f"{name}.weight", "F8_E4M3", (rows, columns)
    yield f"{name}.weight_scale_inv", "F32", (-(-rows // _BLOCK), -(-columns // _BLOCK))


def write(folder: Path, entries: list[Entry], shards: int, config: dict[str, Any]) -> Path:
    """Writes headers, index and config. The data are holes, so only the headers need disk space."""
    folder.mkdir(parents=True)
    sizes = [_SIZE[dtype] * math.prod(shape) for _, dtype, shape in entries]
    total, done = sum(sizes), 0
    groups: list[list[tuple[Entry, int]]] = [[] for _ in range(shards)]
    for entry, size in zip(entries, sizes):
        groups[min(shards - 1, done * shards // total)].append((entry, size))
        done += size
    names = shard_names(shards)
    for name, group in zip(names, groups):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for (tensor, dtype, shape), size in group:
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + offset)
    weight_map = {entry[0]: name for name, group in zip(names, groups) for entry, _ in group}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    return folder
