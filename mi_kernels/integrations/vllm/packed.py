"""See the weights that vLLM's CPU build packs into objects of C++, by what they do.

oneDNN keeps a packed weight behind an address, and vLLM drops the parameter. Its bytes cannot be read, so a fixed input
is multiplied by it, once for each block of columns. The results take the weight's place in the self-check.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

_BLOCK = 32  # columns of a weight that one row of the input reaches


def packed(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, product) for each linear layer whose parameter vLLM has dropped.

    The input has a row for each 32 columns of the weight, with a different power of two in each of 8 columns and zeros
    beyond the block, so that rounding the sum to the weight's dtype hides little of each weight.
    """
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if not callable(getattr(module, "cpu_linear", None)) or weight is None or weight.numel():
            continue
        columns = _columns(module)
        if columns:
            x = _probe(columns, weight.dtype)
            yield f"{name}.weight (packed)", module.cpu_linear(x, weight, None)


def _columns(module: torch.nn.Module) -> int:
    """Returns the number of columns that the weight had when it was created; 0 if it was not a matrix."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    created = get_layerwise_info(module).restore_metadata[0].get("weight")
    return int(created.shape[1]) if created is not None and created.ndim == 2 else 0


def _probe(columns: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.zeros(-(-columns // _BLOCK), columns, dtype=dtype)
    column = torch.arange(columns)
    x[column // _BLOCK, column] = (2.0 ** (column % 8)).to(dtype)
    return x
