"""Plans how each output tensor is computed, for every method except lerp. Some methods read the tensors for this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..backends.spans import Operand
from ..checkpoint.alignment import Alignment, Row
from ..checkpoint.inputs import Inputs
from ..checkpoint.names import layer_count, places
from ..checkpoint.record import Checkpoint
from ..checkpoint.virtual import Tensor as Input
from ..methods.method import Tensor, as_lerp
from ..methods.registry import METHODS
from ..methods.statistics import Reader, in_parallel
from ..recipe.masks import select
from ..recipe.models import MergeRecipe
from ..system.progress import Progress, progress_bar
from .plan import Source

if TYPE_CHECKING:
    from .._cpu import Combine


Values = Mapping[str, Mapping[str, Any]]  # by the names of the tensors that a recipe merges: its parameters for them


def wanted_values(recipe: MergeRecipe, alignment: Alignment) -> Values:
    """Returns the parameters of each tensor that the recipe merges, by its name. Other tensors are copied.

    Raises:
        ArgumentError: a mask selects no tensor, or a parameter has no value for a tensor.
    """
    names = [row.name for row in alignment.merged]
    found, depth = places(names), layer_count(names)
    chosen = select(names, recipe.layers, recipe.modules)
    return {
        row.name: recipe.parameters(row.name, found[row.name], depth)
        for row in alignment.rows
        if row.kept is None and row.floating and row.name in chosen
    }


def combined_sources(
    recipe: MergeRecipe,
    wanted: Values,
    models: Sequence[Checkpoint],
    alignment: Alignment,
    threads: int,
    progress: Progress = False,
) -> dict[str, Source]:
    """Returns the Source of each output tensor, by name.

    A tensor outside the masks is copied from the first model of the recipe that is not the base. A tensor that is not
    floating-point is the same in all models, and is copied too.

    Args:
        wanted: see `wanted_values`.
        models: the base first if the recipe has one.
        progress: how to show that tensors are read, see `system.progress`. A method that reads none shows nothing.

    Raises:
        ArgumentError: the method cannot merge the values of a tensor.
        CheckpointError: an input can no longer be read.
    """
    unchanged = 1.0 if recipe.base is not None else 0.0  # the weight that copies the first model after the base
    sources: dict[str, Source] = {}
    parameters: list[tuple[Row, Mapping[str, Any]]] = []
    for row in alignment.rows:
        weight = unchanged if row.floating else 0.0
        sources[row.name] = Source(row.inputs, (weight,), kept=row.kept, common=row.common)
        if row.name in wanted:
            parameters.append((row, wanted[row.name]))

    method = METHODS[recipe.method]
    shown = progress if method.reads != "nothing" else False
    total = sum(_bytes(row) for row, _ in parameters)
    with (
        Inputs([m.files for m in models]) as inputs,
        progress_bar(shown, total, f"computing {method.reads}") as on_bytes,
    ):
        for row, _ in parameters:
            for k, t in enumerate(row.inputs):
                inputs.check_length(k, t)

        def task(row: Row, values: Mapping[str, Any]) -> Callable[[], None]:
            def work() -> None:
                readers = [_reader(inputs, k, t) for k, t in enumerate(row.inputs)]
                base = readers.pop(0) if recipe.base is not None else None
                elements = row.inputs[0].elements if row.common is None else row.common
                tensor = Tensor(row.name, elements, readers, base)
                try:
                    sources[row.name] = _source(row, method.formula(tensor, **values))
                finally:  # a failed read leaves zeros, which can make the method fail: report the read
                    inputs.check()
                on_bytes(_bytes(row))

            return work

        # Largest first, so that no thread starts a large tensor when the others have finished.
        parameters.sort(key=lambda item: -item[0].inputs[0].nbytes)
        in_parallel([task(row, values) for row, values in parameters], 1 if method.reads == "nothing" else threads)
    return sources


def _source(row: Row, combine: Combine) -> Source:
    lam = as_lerp(combine, len(row.inputs))
    if lam is None:
        return Source(row.inputs, formula=combine, common=row.common)
    return Source(row.inputs, (lam,), common=row.common)


def _bytes(row: Row) -> int:
    return sum(t.nbytes for t in row.inputs)


def _reader(inputs: Inputs, model: int, tensor: Input) -> Reader:
    def read(first: int, count: int) -> Operand:
        return inputs.operand(model, tensor, first, count)

    return read
