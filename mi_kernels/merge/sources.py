"""Plans how each output tensor of an interpolation is computed. `combined`, which imports more, plans other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..checkpoint.alignment import Alignment
from ..recipe.interpolation import Recipe
from .plan import Source


def unties(alignment: Alignment, sources: Mapping[str, Source], output: int) -> bool:
    """Returns True if an output stores a head of its own although a model ties it to the embedding."""
    tie = alignment.tie
    if tie is None:
        return False
    head, embedding = sources[tie.head], sources[tie.embedding]
    alike = head.weights[output : output + 1] == embedding.weights[output : output + 1]
    return not (tie.same and alike and head.formula == embedding.formula)


def lerp_sources(alignment: Alignment, recipes: Sequence[Recipe]) -> dict[str, Source]:
    """Returns the Source of each output tensor, by name. It has one weight for each of `recipes`."""
    names = [row.name for row in alignment.merged]
    weights = [recipe.weights(names) for recipe in recipes]
    copies = (0.0,) * len(recipes)
    return {
        row.name: Source(
            row.inputs,
            # A tensor that is not floating-point is the same in both models, and is copied.
            copies if row.kept is not None or not row.floating else tuple(w[row.name] for w in weights),
            kept=row.kept,
            common=row.common,
        )
        for row in alignment.rows
    }
