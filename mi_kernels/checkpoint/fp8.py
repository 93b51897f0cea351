"""Dequantises FP8 checkpoints while they are read. Rejects all other quantisations by name.

The FP8 format of DeepSeek-V3, Qwen3-*-FP8 and transformers' FineGrainedFP8Config is supported: `X.weight` is E4M3
[rows, columns] and `X.weight_scale_inv` is [ceil(rows / 128), ceil(columns / 128)]. Despite its name, the weight is
multiplied by it. Without a block size, a tensor has one scale. The value of an element is

    float32(weight) * float32(scale)                         rounded once, NaN canonical

A merge uses this float32 value; it is not rounded to bf16 first. `X.activation_scale` is only used for FP8 arithmetic,
so it is dropped together with the scales.
"""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError, MismatchError, shortened
from .record import Checkpoint
from .tensor import TensorInfo
from .virtual import ScaledTensor

_WEIGHT = "F8_E4M3"
_SCALES = ("F32", "BF16", "F16")
_OUT = "BF16"  # the dtype of the unquantised versions of such models
_REMEDY = "Use the bf16 version of this model: only FP8 weights with weight_scale_inv can be dequantised."


def quantization_config(config: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the quantization_config of config.json or of its text_config; None if the model is not quantised."""
    for part in (config, config.get("text_config")):
        found = part.get("quantization_config") if isinstance(part, dict) else None
        if found:
            return found if isinstance(found, dict) else {"quant_method": str(found)}
    return None


def dequantise(model: Checkpoint) -> None:
    """Replaces every FP8 weight of `model` that has scales by a ScaledTensor, and removes the scales.

    Does nothing if the config does not declare FP8: `refuse_quantised` handles such models.

    Raises:
        CheckpointError: the shape or dtype of the scales does not fit their weight.
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
    shown = "blocks of " + " x ".join(map(str, block)) if isinstance(block, list) else "one scale for each tensor"
    model.notes.append(f"{model.source}: {len(scaled)} FP8 tensors (e4m3, {shown}) are dequantised while they are read")


def _block(model: Checkpoint, weight: TensorInfo, scales: TensorInfo, block: object) -> tuple[int, int]:
    """Checks the scales and returns the (rows, columns) that share a scale."""
    path = model.shards[scales.shard]
    if scales.dtype not in _SCALES:
        raise CheckpointError(
            f"{path}: {scales.name} is {scales.dtype}, not one of {', '.join(_SCALES)}",
            "Use the bf16 version of this model.",
        )
    if len(weight.shape) == 2 and scales.elements == 1:
        return max(weight.shape[0], 1), max(weight.shape[1], 1)
    if not isinstance(block, (list, tuple)) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise CheckpointError(
            f"{path}: {scales.name} has shape {list(scales.shape)}, and config.json gives weight_block_size {block}",
            "Set weight_block_size to [rows, columns] of a block, as in the original model.",
        )
    expected = tuple(-(-n // b) for n, b in zip(weight.shape, block))
    if len(weight.shape) != 2 or scales.shape != expected:
        raise CheckpointError(
            f"{path}: {scales.name} has shape {list(scales.shape)} for a weight of {list(weight.shape)} in blocks of "
            f"{list(block)}",
            f"Expected {list(expected)}: fix weight_block_size in config.json." if len(weight.shape) == 2 else _REMEDY,
        )
    # A block may be larger than the weight; clamp it to fit the 64-bit integers of the kernels.
    return min(block[0], max(weight.shape[0], 1)), min(block[1], max(weight.shape[1], 1))


def refuse_quantised(model: Checkpoint) -> None:
    """Accepts models whose config declares no quantisation, and FP8 models that `dequantise` has handled.

    `alignment` handles all other tensors that are not floating point: it copies equal ones and rejects different ones.

    Raises:
        MismatchError: another quantisation, or an FP8 model with FP8 tensors that have no scales.
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
            f"{model.shards[first.shard]}: {first.dtype} without weight_scale_inv in "
            f"{shortened([t.name for t in bare])}",
            _REMEDY,
        )


def _unknown(config: dict[str, Any]) -> str | None:
    """Returns the name of an unsupported quantisation; None for FP8 as described in the module docstring."""
    method = config.get("quant_method")
    if method != "fp8":
        if method is None and any(str(key).startswith("load_in_") for key in config):
            method = "bitsandbytes"
        parts = (method or "without quant_method", config.get("quant_algo"), config.get("format"))
        return " ".join(str(part) for part in parts if part)
    if config.get("fmt") not in (None, "e4m3"):
        return f"fp8 in {config['fmt']}"
    if config.get("activation_scheme") not in (None, "dynamic", "static"):
        return f"fp8 with activation_scheme {config['activation_scheme']}"
    return None
