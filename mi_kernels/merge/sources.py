"""What each tensor of an interpolation is made of. The other methods are in `combined`, which imports more."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.alignment import Alignment
from ..recipe.interpolation import Recipe
from .plan import Source


def lerp_sources(alignment: Alignment, recipes: Sequence[Recipe]) -> dict[str, Source]:
    """A Source for each tensor, with a weight for each of `recipes`."""
    names = [row.name for row in alignment.rows]
    weights = [recipe.weights(names) for recipe in recipes]
    return {
        # A tensor that is not floating is the same in both models, and is copied.
        row.name: Source(row.inputs, tuple(w[row.name] if row.floating else 0.0 for w in weights))
        for row in alignment.rows
    }
