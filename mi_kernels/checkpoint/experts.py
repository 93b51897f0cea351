"""Matches experts that one model stores in one tensor and the other one by one.

transformers 5 fuses the experts of a layer in memory, and tools that save its state_dict write them fused:

    experts.gate_up_proj [E, 2 I, H]   for each expert its gate_proj [I, H] and then its up_proj [I, H]
    experts.down_proj    [E, H, I]     for each expert its down_proj [H, I]

In this order (`MergeModulelist` and `Concatenate` in transformers' conversion_mapping.py) the bytes of one expert are
adjacent, so that both layouts are only different views of the same data. Llama 4, gpt-oss and Qwen3-VL-MoE store the
matrices transposed or interleaved; they are never matched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .inputs import value_dtype
from .spelling import by_canonical
from .tensor import TensorInfo
from .virtual import StackedTensor, Tensor

_FUSED = re.compile(r"(?P<layer>.*\.experts)\.(?P<which>gate_up_proj|down_proj)")
_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_TRANSPOSED = ("llama4", "llama4_text", "gpt_oss", "qwen3_vl_moe", "qwen3_vl_moe_text", "dbrx")


def unify(
    wanted: Mapping[str, Tensor], held: dict[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], int]:
    """Returns the tensors `held` of one model in the layout of the experts of another model, `wanted`.

    Args:
        config: config.json of the model of `wanted`.

    Returns:
        The tensors, under names of `wanted` where experts were split or fused, and the number of fused tensors.
    """
    text = config.get("text_config")
    kinds = (config.get("model_type"), text.get("model_type") if isinstance(text, dict) else None)
    if any(kind in _TRANSPOSED for kind in kinds):
        return held, 0
    known, mine = by_canonical(wanted), by_canonical(held)
    found, changed = dict(held), 0
    for key, name in known.items():  # fused in `wanted`
        match = _FUSED.fullmatch(key)
        if match and key not in mine:
            stacked = _fused(name, wanted[name], match, held, mine)
            if stacked is not None:
                parts, found[name] = stacked
                for part in parts:
                    del found[part]
                changed += 1
    for key, name in mine.items():  # fused in `held`
        match = _FUSED.fullmatch(key)
        if match and key not in known:
            single = _split(held[name], match, wanted, known)
            if single:
                del found[name]
                found.update(single)
                changed += 1
    return found, changed


def _names(match: re.Match[str], experts: int, names: Mapping[str, str]) -> list[str] | None:
    """Returns the names of the matrices in the order of the fused tensor; None if one is missing."""
    if experts * len(_PARTS[match["which"]]) > len(names):  # the number is a claim of a header
        return None
    keys = [f"{match['layer']}.{expert}.{part}.weight" for expert in range(experts) for part in _PARTS[match["which"]]]
    return [names[key] for key in keys] if all(key in names for key in keys) else None


def _shape_of_part(fused: Tensor, match: re.Match[str]) -> tuple[int, int] | None:
    count = len(_PARTS[match["which"]])
    if len(fused.shape) != 3 or fused.shape[0] == 0 or fused.shape[1] % count:
        return None
    return fused.shape[1] // count, fused.shape[2]


def _fused(
    name: str, like: Tensor, match: re.Match[str], held: Mapping[str, Tensor], mine: Mapping[str, str]
) -> tuple[list[str], StackedTensor] | None:
    shape = _shape_of_part(like, match)
    names = None if shape is None else _names(match, like.shape[0], mine)
    if names is None:
        return None
    parts = [held[n] for n in names]
    if any(isinstance(p, StackedTensor) or p.shape != shape for p in parts):
        return None
    if len({value_dtype(p) for p in parts}) > 1:  # some of them calculated in float32, others stored
        return None
    return names, StackedTensor(name, parts[0].dtype, tuple(parts), like.shape)  # type: ignore[arg-type]


def _split(
    fused: Tensor, match: re.Match[str], wanted: Mapping[str, Tensor], known: Mapping[str, str]
) -> dict[str, Tensor]:
    shape = _shape_of_part(fused, match)
    names = None if shape is None else _names(match, fused.shape[0], known)
    if names is None or not isinstance(fused, TensorInfo) or any(wanted[n].shape != shape for n in names):
        return {}
    size = fused.nbytes // len(names)
    return {
        n: TensorInfo(n, fused.dtype, shape, fused.shard, fused.begin + i * size, fused.begin + (i + 1) * size)  # type: ignore[arg-type]
        for i, n in enumerate(names)
    }
