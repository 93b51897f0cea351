"""Merges computed into memory, tensor by tensor, for those who want weights and no folder.

The checkpoints stay mapped between merges, so that the second one takes no page faults: what a model costs in memory is
its place in the page cache, shared by all processes that read it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..backends import cpu
from ..checkpoint.alignment import align
from ..checkpoint.inputs import Inputs
from ..checkpoint.open import open_checkpoint
from ..checkpoint.virtual import Tensor
from ..dtypes import TORCH_NAMES
from ..errors import CheckpointError
from ..merge.options import Options
from ..merge.plan import Source
from ..merge.sources import lerp_sources
from ..merge.spans import fill_tensor
from ..ops.arrays import on_huge_pages
from ..recipe.interpolation import Recipe

if TYPE_CHECKING:
    import torch

    from ..recipe.models import MergeRecipe

_AHEAD = 2  # tensors computed before they are asked for, for each thread


class Resident:
    """Aligned checkpoints, mapped until `close`.

    Args:
        sources: folders or Hub ids: INSTRUCT and THINKING, or all models of a recipe.
        threads: computing threads; None for all cores.

    Raises:
        MIKernelsError: a checkpoint that cannot be read, or cannot be merged with the others.
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]], threads: int | None = None) -> None:
        self.models = [open_checkpoint(source) for source in sources]
        self.alignment = align(self.models)
        self.names = [row.name for row in self.alignment.rows]
        self._threads = Options(threads=threads).thread_count
        self._inputs = Inputs([model.files for model in self.models])
        for row in self.alignment.rows:
            for k, tensor in enumerate(row.inputs):
                self._inputs.check_length(k, tensor)

    def close(self) -> None:
        self._inputs.__exit__()

    def lerp(self, recipe: Recipe) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of the merge by name, in INSTRUCT's order and dtypes, the bits of `lerp_checkpoint`.

        Raises:
            ArgumentError: before the first tensor: a mask that selects nothing, a lam out of range.
            CheckpointError: while they are computed: a file cannot be read, or has changed since it was opened. What
                was yielded before must not be used then.
        """
        return self._tensors(lerp_sources(self.alignment, [recipe]))

    def merge(self, recipe: MergeRecipe) -> Iterator[tuple[str, torch.Tensor]]:
        """`lerp` for the methods of `merge_checkpoint`."""
        from ..merge.combined import combined_sources

        return self._tensors(combined_sources(recipe, self.models, self.alignment, self._threads))

    def _tensors(self, sources: Mapping[str, Source]) -> Iterator[tuple[str, torch.Tensor]]:
        self._check_unchanged()
        isa = cpu.isa()
        ahead: deque[tuple[str, Future[Any]]] = deque()
        with ThreadPoolExecutor(self._threads, "mi-kernels-resident") as pool:
            for row in self.alignment.rows:
                ahead.append((row.name, pool.submit(self._tensor, sources[row.name], row.inputs[0], isa)))
                if len(ahead) > _AHEAD * self._threads:
                    name, tensor = ahead.popleft()
                    yield name, tensor.result()
            for name, tensor in ahead:
                yield name, tensor.result()
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        for model in self.models:
            model.check_unchanged()

    def _tensor(self, source: Source, like: Tensor, isa: str) -> torch.Tensor:
        import torch

        dtype = torch_dtype(like.dtype)
        out = on_huge_pages(torch.empty(tuple(like.shape), dtype=dtype))
        memory = memoryview(out.view(-1).view(torch.uint8).numpy()) if out.numel() else memoryview(b"")
        fill_tensor(self._inputs, source, like, memory, isa)
        return out


def torch_dtype(name: str) -> torch.dtype:
    """torch's dtype for safetensors' name of it.

    Raises:
        CheckpointError: torch has none.
    """
    import torch

    found = getattr(torch, TORCH_NAMES.get(name, ""), None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError(f"tensors of dtype {name} cannot be handed over", "Merge to a folder: mi-kernels lerp.")
    return found
