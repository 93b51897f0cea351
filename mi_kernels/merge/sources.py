"""Plans how each output tensor of an interpolation is computed. `combined`, which imports more, plans other methods."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.alignment import Alignment
from ..recipe.interpolation import Recipe
from .plan import Source


def lerp_sources(alignment: Alignment, recipes: Sequence[Recipe]) -> dict[str, Source]:
    """Returns the Source of each output tensor, by name. It has one weight for each of `recipes`."""
    names = [row.name for row in alignment.rows]
    weights = [recipe.weights(names) for recipe in recipes]
    return {
        # A tensor that is not floating-point is the same in both models, and is copied.
        row.name: Source(row.inputs, tuple(w[row.name] if row.floating else 0.0 for w in weights))
        for row in alignment.rows
    }
