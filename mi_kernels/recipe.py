"""What is merged how: lam and masks in, a weight for each tensor out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .masks import Layers, Modules, select


@dataclass(frozen=True)
class Recipe:
    """Interpolation with masks: `lam` where `layers` and `modules` select, 0 (INSTRUCT's bytes) elsewhere."""

    lam: float
    layers: Layers = None
    modules: Modules = None

    def weights(self, names: Sequence[str]) -> dict[str, float]:
        """The weight of THINKING for each tensor.

        Raises:
            ArgumentError: a mask names a layer or module that is not among `names`, or selects nothing.
        """
        chosen = select(names, self.layers, self.modules)
        return {name: self.lam if name in chosen else 0.0 for name in names}
