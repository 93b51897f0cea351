"""FP8 checkpoints to merge, and their weights dequantised by torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
QUANTISED = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
LAYER = "model.layers.0."
# Shapes that are not multiples of 128, that fit in one block, and that are multiples of 128.
SHAPES = {
    LAYER + "self_attn.q_proj.weight": (300, 200),
    LAYER + "self_attn.o_proj.weight": (7, 5),
    LAYER + "mlp.up_proj.weight": (256, 384),
    LAYER + "mlp.down_proj.weight": (129, 1),
}
NORM = LAYER + "input_layernorm.weight"


def fp8_model(seed: int, scale_dtype: torch.dtype = torch.float32) -> Tensors:
    """Returns FP8 weights with all 256 bit patterns, scales of many magnitudes, and a bf16 norm."""
    rng = torch.Generator().manual_seed(seed)
    tensors: Tensors = {NORM: torch.randn(200, generator=rng).bfloat16()}
    for name, (rows, columns) in SHAPES.items():
        bits = torch.randint(0, 256, (rows, columns), generator=rng, dtype=torch.uint8)
        scale_shape = (-(-rows // 128), -(-columns // 128))
        exponents = torch.randint(-40, 3, scale_shape, generator=rng)
        tensors[name] = bits.view(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = ((1 + torch.rand(scale_shape, generator=rng)) * 2.0**exponents).to(scale_dtype)
    return tensors


def write(folder: Path, tensors: Tensors, config: dict[str, Any] | None = None, shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        weight_map = {name: files[i % shards] for i, name in enumerate(names)}
        for file in files:
            save_file({n: tensors[n] for n in names if weight_map[n] == file}, folder / file, {"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16"} if config is None else config))
    return folder


def quantised(folder: Path, tensors: Tensors, shards: int = 1, **changes: object) -> Path:
    return write(folder, tensors, {"dtype": "bfloat16", "quantization_config": {**QUANTISED, **changes}}, shards)


def dequantised(tensors: Tensors) -> Tensors:
    """The reference: repeats every scale over its block and multiplies once in float32."""
    plain = {}
    for name, t in tensors.items():
        scales = tensors.get(name + "_scale_inv")
        if scales is not None:
            rows, columns = t.shape
            wide = scales.float().repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
            plain[name] = t.float() * wide
        elif not name.endswith("_scale_inv"):
            plain[name] = t.float()
    return plain


def bits(t: torch.Tensor) -> torch.Tensor:
    """Returns the bits of `t` with canonical NaN."""
    t = torch.where(t.isnan(), torch.full_like(t, float("nan")), t)
    return t.view(torch.int16 if t.itemsize == 2 else torch.int32)


def assert_same(out: Path, expected: Tensors) -> None:
    found: Tensors = {}
    for file in out.glob("*.safetensors"):
        found.update(load_file(file))
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        assert found[name].dtype == t.dtype, name
        assert torch.equal(bits(found[name]), bits(t)), name


def lerped(a: Tensors, b: Tensors, lam: float, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    return {name: torch.lerp(a[name], b[name], lam).to(dtype) for name in a}
