"""See the weights that vLLM's CPU build packs into objects of C++, by what they do.

oneDNN keeps a packed copy of a weight behind an address, and vLLM often drops the parameter. The bytes of the copy
cannot be read, so a fixed input is multiplied by it. The products are compared in the self-check.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

_BLOCK = 32  # columns of a weight that one row of the input reaches


def packed(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, product) for each linear layer that vLLM computes with a function of its own.

    The input has a row for each 32 columns of the weight, with a different power of two in each of 8 columns and zeros
    beyond the block, so that rounding the sum to the weight's dtype hides little of each weight.
    """
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        linear = getattr(module, "cpu_linear", None)
        if not callable(linear) or weight is None or weight.is_meta or linear is torch.nn.functional.linear:
            continue
        shape = weight.shape if weight.numel() else _shape_when_created(module)
        if len(shape) == 2:
            yield f"{name}.weight (packed)", linear(_probe(shape[1], weight.dtype), weight, None)


def _shape_when_created(module: torch.nn.Module) -> tuple[int, ...]:
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    created = get_layerwise_info(module).restore_metadata[0].get("weight")
    return () if created is None else tuple(created.shape)


def _probe(columns: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.zeros(-(-columns // _BLOCK), columns, dtype=dtype)
    column = torch.arange(columns)
    x[column // _BLOCK, column] = (2.0 ** (column % 8)).to(dtype)
    return x
