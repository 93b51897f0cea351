"""Base models with LoRA adapters, and the chain of float32 operations that a merge must match."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from mi_kernels.backends.reference.lerp import fma

from .fp8_models import write

Tensors = dict[str, torch.Tensor]
Float32 = npt.NDArray[np.float32]
PREFIX = "base_model.model."
Q, UP, NORM, EMBED = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.0.input_layernorm",
    "model.embed_tokens",
)
# Shapes that end inside a register, inside a strip of 128 columns and inside a group of 64 rows.
SHAPES = {Q: (70, 300), UP: (9, 5), EMBED: (33, 20)}
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 7, "target_modules": ["q_proj", "up_proj"], "bias": "none"}


class Pair(NamedTuple):
    """A base and an adapter, and their folders."""

    base: Tensors
    adapter: Tensors
    folder: Path
    adapter_folder: Path

    @property
    def name(self) -> str:
        return f"{self.folder}+{self.adapter_folder}"


def make_base(seed: int) -> Tensors:
    rng = torch.Generator().manual_seed(seed)
    tensors = {f"{name}.weight": torch.randn(shape, generator=rng).bfloat16() for name, shape in SHAPES.items()}
    return {**tensors, f"{NORM}.weight": torch.randn(20, generator=rng).bfloat16()}


def factors(seed: int, shape: tuple[int, int], rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns A [rank, columns] and B [rows, rank]."""
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, shape[1], generator=rng), torch.randn(shape[0], rank, generator=rng)
    return a.to(dtype), b.to(dtype)


def write_adapter(folder: Path, tensors: Tensors, **changes: object) -> Path:
    folder.mkdir(parents=True)
    save_file({PREFIX + name: t.contiguous() for name, t in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def make_pair(tmp_path: Path, seed: int = 1, dtype: torch.dtype = torch.float32, **changes: object) -> Pair:
    base = make_base(seed)
    adapter: Tensors = {}
    for i, module in enumerate((Q, UP)):
        adapter[f"{module}.lora_A.weight"], adapter[f"{module}.lora_B.weight"] = factors(i, SHAPES[module], 4, dtype)
    folder = write(tmp_path / f"base{seed}", base)
    return Pair(base, adapter, folder, write_adapter(tmp_path / f"adapter{seed}", adapter, **changes))


def chain(w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """The definition: a chain of fma over k = 0 .. rank - 1, then one fma with W. Every fma is exact."""
    wide = [t.float().numpy() for t in (w, a, b)]
    rows = []
    for w_row, b_row in zip(wide[0], wide[2]):
        delta = np.zeros_like(w_row)
        for b_k, a_row in zip(b_row, wide[1]):
            delta = fma(b_k, a_row, delta)
        rows.append(fma(np.float32(scale), delta, w_row))
    return torch.from_numpy(np.stack(rows))


def merged(pair: Pair, scales: dict[str, float]) -> Tensors:
    """Returns the float32 weights of base + adapter."""
    values = {name: t.float() for name, t in pair.base.items()}
    for module, scale in scales.items():
        a, b = pair.adapter[f"{module}.lora_A.weight"], pair.adapter[f"{module}.lora_B.weight"]
        values[f"{module}.weight"] = chain(pair.base[f"{module}.weight"], a, b, scale)
    return values


PLAIN = {Q: 7 / 4, UP: 7 / 4}
