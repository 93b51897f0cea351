"""Quantised checkpoints: FP8 with scales is read as if it were not quantised, everything else is refused by name.

FP8 as DeepSeek-V3 and Qwen3-*-FP8 publish it, and as transformers' FineGrainedFP8Config writes it: `X.weight` in E4M3
[rows, columns] and `X.weight_scale_inv` [ceil(rows / 128), ceil(columns / 128)], in spite of its name the factor that
gives the weight back. Without a block size there is one scale for a tensor. The value of an element is

    float32(weight) * float32(scale)                         rounded once, NaN canonical

and enters a merge as float32; nothing is rounded to bf16 on the way. `X.activation_scale` belongs to FP8 arithmetic, of
which none is left, and goes with the scales.
"""

from __future__ import annotations

import os
from typing import Any

from ..errors import CheckpointError, MismatchError, shortened
from .record import Checkpoint
from .tensor import TensorInfo
from .virtual import ScaledTensor

_WEIGHT = "F8_E4M3"
_SCALES = ("F32", "BF16", "F16")
_OUT = "BF16"  # what such models are published as besides
_REMEDY = "Only FP8 weights with weight_scale_inv are dequantised here: get the bf16 version of this model."


def quantization_config(config: dict[str, Any]) -> dict[str, Any] | None:
    """What config.json says about quantisation, for the whole model or for its language part."""
    for part in (config, config.get("text_config")):
        found = part.get("quantization_config") if isinstance(part, dict) else None
        if found:
            return found if isinstance(found, dict) else {"quant_method": str(found)}
    return None


def dequantise(model: Checkpoint) -> None:
    """Puts a ScaledTensor in the place of every FP8 weight of `model` that has scales, and takes the scales away.

    Models that are not FP8 by their config stay as they are: `refuse_quantised` is for them.

    Raises:
        CheckpointError: scales of a shape or dtype that does not belong to their weight.
    """
    config = quantization_config(model.config)
    if config is None or _unknown(config) is not None:
        return
    block = config.get("weight_block_size")
    scaled = {}
    consumed = set()
    for name, weight in model.tensors.items():
        scales = model.tensors.get(name + "_scale_inv")
        if isinstance(weight, TensorInfo) and weight.dtype == _WEIGHT and isinstance(scales, TensorInfo):
            scaled[name] = ScaledTensor(name, _OUT, weight, scales, _block(model, weight, scales, block))
            consumed |= {scales.name, name.removesuffix("weight") + "activation_scale"}
    if not scaled:
        return
    model.tensors = {name: scaled.get(name, t) for name, t in model.tensors.items() if name not in consumed}
    shown = "blocks of " + " x ".join(map(str, block)) if isinstance(block, list) else "one scale a tensor"
    model.notes.append(f"{model.source}: {len(scaled)} FP8 tensors (e4m3, {shown}) are dequantised as they are read")


def _block(model: Checkpoint, weight: TensorInfo, scales: TensorInfo, block: object) -> tuple[int, int]:
    """The (rows, columns) that share a scale, once the scales are found to fit."""
    path = model.shards[scales.shard]
    if scales.dtype not in _SCALES:
        raise CheckpointError(f"{path}: {scales.name} is {scales.dtype}", f"Scales are {', '.join(_SCALES)}. {_REMEDY}")
    if len(weight.shape) == 2 and scales.elements == 1:
        return max(weight.shape[0], 1), max(weight.shape[1], 1)
    if not isinstance(block, (list, tuple)) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise CheckpointError(
            f"{path}: {scales.name} has shape {list(scales.shape)}, and config.json gives weight_block_size {block}",
            "A block is [rows, columns]; without one there is one scale for a tensor.",
        )
    expected = tuple(-(-n // b) for n, b in zip(weight.shape, block))
    if len(weight.shape) != 2 or scales.shape != expected:
        raise CheckpointError(
            f"{path}: {scales.name} has shape {list(scales.shape)} for a weight of {list(weight.shape)} in blocks of "
            f"{list(block)}",
            f"It should be {list(expected)}: download the model again." if len(weight.shape) == 2 else _REMEDY,
        )
    # A block may be larger than the weight; the kernels' integers have 64 bits.
    return min(block[0], max(weight.shape[0], 1)), min(block[1], max(weight.shape[1], 1))


def refuse_quantised(model: Checkpoint) -> None:
    """Passes models that are not quantised by their config, and FP8 models that `dequantise` has read.

    What else is no plain float is the business of `alignment`: equal tensors are copied, others refused.

    Raises:
        MismatchError: another quantisation, or a part of an FP8 model without scales; names it.
    """
    config = quantization_config(model.config)
    if config is None:
        return
    unknown = _unknown(config)
    if unknown is not None:
        raise MismatchError(f"{model.source}: is quantised ({unknown})", _REMEDY)
    bare = [t for t in model.tensors.values() if isinstance(t, TensorInfo) and t.dtype.startswith(("F8_", "F6_", "F4"))]
    if bare:
        first = bare[0]
        raise MismatchError(
            f"{os.path.join(model.root, os.path.basename(model.shards[first.shard]))}: {first.dtype} without "
            f"weight_scale_inv in {shortened([t.name for t in bare])}",
            _REMEDY,
        )


def _unknown(config: dict[str, Any]) -> str | None:
    """How to call a quantisation that cannot be read; None for FP8 as described above."""
    method = config.get("quant_method")
    if method != "fp8":
        if method is None and any(str(key).startswith("load_in_") for key in config):
            method = "bitsandbytes"
        parts = (method or "by an unnamed method", config.get("quant_algo"), config.get("format"))
        return " ".join(str(part) for part in parts if part)
    if config.get("fmt") not in (None, "e4m3"):
        return f"fp8 in {config['fmt']}"
    if config.get("activation_scheme") not in (None, "dynamic", "static"):
        return f"fp8 with activation_scheme {config['activation_scheme']}"
    return None
