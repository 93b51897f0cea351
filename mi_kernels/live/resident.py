"""Merge checkpoints into memory, tensor by tensor, for callers that need weights and not a folder.

The checkpoints stay mapped between merges, so that later merges have no page faults. The memory of a model is the page
cache, which all processes that read it share.
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
from ..errors import CheckpointError, MismatchError, shortened
from ..merge.options import Options
from ..merge.plan import Source
from ..merge.sources import lerp_sources, unties
from ..merge.spans import fill_tensor
from ..ops.arrays import on_huge_pages
from ..recipe.interpolation import Recipe

if TYPE_CHECKING:
    import torch

    from ..recipe.models import MergeRecipe

_AHEAD = 2  # tensors per thread that are computed in advance


class Resident:
    """Matched checkpoints that stay mapped until `close`, and can be merged into memory many times.

    Args:
        sources: folders or Hub ids: INSTRUCT and THINKING, or all models of a recipe (base first).
        threads: the number of computing threads; None for all cores.

    Attributes:
        names: the names of the tensors of a merge, in the order of INSTRUCT.

    Raises:
        ArgumentError: `threads` is out of range.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: the checkpoints do not have the same tensors.

    Example:
        >>> from mi_kernels import Recipe
        >>> from mi_kernels.live.resident import Resident
        >>> resident = Resident(["instruct", "thinking"])
        >>> merged = dict(resident.lerp(Recipe(0.8)))
        >>> list(merged) == resident.names
        True
        >>> resident.close()
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]], threads: int | None = None) -> None:
        self.models = [open_checkpoint(source) for source in sources]
        alignment = align(self.models, lead=0)
        # Callers load the architecture of INSTRUCT, which has no place for what only the other models have.
        self.alignment = alignment._replace(rows=[row for row in alignment.rows if row.kept in (None, 0)])
        self.names = [row.name for row in self.alignment.rows]
        dropped = [row.name for row in alignment.rows if row.kept not in (None, 0)]
        elsewhere = [note for holder, notes in alignment.kept_notes.items() if holder for note in notes]
        self._notes = [note for note in alignment.notes if note not in elsewhere]
        if dropped:
            self._notes.append(f"{len(dropped)} tensors ({shortened(dropped)}) of other models are not loaded")
        self._threads = Options(threads=threads).thread_count
        self._inputs = Inputs([model.files for model in self.models])
        for row in self.alignment.rows:
            for k, tensor in row.reads():
                self._inputs.check_length(k, tensor)

    @property
    def notes(self) -> list[str]:
        """One line for each irregularity of the checkpoints that is handled."""
        lines = [line for model in self.models for line in (*model.notes, *model.risks)]
        return [*lines, *self._notes]

    def check_tied(self, recipe: Recipe | None) -> None:
        """Checks that a loader that ties the head to the embedding, as the first model does, loads the whole merge.

        Args:
            recipe: the recipe of an interpolation; None for other methods.

        Raises:
            MismatchError: the head of the merge is not its embedding.
        """
        tie, served = self.alignment.tie, self.models[0]
        if tie is None or not served.tied:
            return
        if not tie.same if recipe is None else unties(self.alignment, lerp_sources(self.alignment, [recipe]), 0):
            raise MismatchError(
                f"{tie.head}: is not {tie.embedding} in the merge, but config.json of {served.source} ties the two",
                "Merge into a folder with `mi-kernels lerp` and use that folder: its config.json does not tie them.",
            )

    def close(self) -> None:
        self._inputs.__exit__()

    def lerp(self, recipe: Recipe) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields (name, tensor) of the merge, in the order, shapes and dtypes of INSTRUCT.

        The bits are those that `lerp_checkpoint` writes.

        Raises:
            ArgumentError: before the first tensor, if a mask selects no tensor or lam is out of range.
            CheckpointError: at any time, if a file cannot be read or has changed since it was opened. Discard the
                tensors yielded before.
        """
        return self._tensors(lerp_sources(self.alignment, [recipe]))

    def merge(self, recipe: MergeRecipe) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields (name, tensor) like `lerp`, for any method of `merge_checkpoint`.

        Raises:
            ArgumentError: before the first tensor, also if the models do not meet the conditions of the recipe.
        """
        from ..merge.combined import combined_sources, wanted_values
        from ..merge.job import origin_of

        if recipe.conditions is not None:
            options = Options(copy_from=recipe.copy_from)
            recipe.conditions.check(self.models, origin_of(self.models, recipe.base is not None, options))
        wanted = wanted_values(recipe, self.alignment)
        return self._tensors(combined_sources(recipe, wanted, self.models, self.alignment, self._threads))

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
    """Returns the torch dtype for the name of a dtype in safetensors.

    Raises:
        CheckpointError: torch does not have the dtype.
    """
    import torch

    found = getattr(torch, TORCH_NAMES.get(name, ""), None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError(
            f"torch has no dtype for tensors of {name}", "Merge into a folder with `mi-kernels lerp` instead."
        )
    return found
