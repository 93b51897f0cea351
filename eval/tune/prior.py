"""Candidates to begin a search with: weights by how much the two models differ in each block.

With d_b the relative distance of the two models in block b, and r_b = d_b / mean of all d,

    forward     w_b = lam * r_b / mean(r)              more of THINKING where the models differ more
    backward    w_b = lam * (1 / r_b) / mean(1 / r)    more of THINKING where they differ less

each limited to [0, 1] and to at most a factor of 4 from lam. The mean of the weights is about lam, so such a candidate
differs from the plain interpolation only in how the weights are distributed over depth and modules.

d_b is sigma, sum |a - b| / (sum |a| + sum |b|), of `mi_kernels.similarity` and Table 1 of arXiv 2510.10977, averaged
over the cells of the block by their numbers of elements. The formulas are ours: that the layers which training changed
most matter most is a guess that the search checks, in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mi_kernels.compare.similarity import Similarity

from .space import Block, Space

LAMS = (0.5, 0.75)
_FACTOR = 4.0


def candidates(space: Space, found: Similarity) -> list[tuple[str, dict[str, float]]]:
    """(name, weights by block): both directions at each of LAMS. Empty if the distance does not distinguish blocks."""
    ratios = relative(space.blocks, found)
    if len(set(ratios.values())) < 2:
        return []
    made = []
    for lam in LAMS:
        made.append((f"more where the models differ more, about {lam:g}", spread(lam, ratios)))
        inverse = {name: 1 / ratio for name, ratio in ratios.items()}
        made.append((f"more where the models differ less, about {lam:g}", spread(lam, inverse)))
    return made


def relative(blocks: Sequence[Block], found: Similarity) -> dict[str, float]:
    """r_b by block, limited to 1/4 to 4. A block that does not differ, or was not compared, has 1/4."""
    distances = {block.name: _distance(block, found) for block in blocks}
    mean = sum(distances.values()) / len(distances)
    if mean == 0:
        return dict.fromkeys(distances, 1.0)
    return {name: min(_FACTOR, max(1 / _FACTOR, d / mean)) for name, d in distances.items()}


def spread(lam: float, ratios: Mapping[str, float]) -> dict[str, float]:
    """Weights in proportion to `ratios`, whose mean is `lam` unless some reach 1."""
    mean = sum(ratios.values()) / len(ratios)
    return {name: min(1.0, lam * ratio / mean) for name, ratio in ratios.items()}


def _distance(block: Block, found: Similarity) -> float:
    cells = [
        measure
        for (layer, module), measure in found.cells.items()
        if block.module in (None, module)
        and (block.layers is None or (layer is not None and block.layers[0] <= layer < block.layers[1]))
    ]
    elements = sum(cell.elements for cell in cells)
    return sum(cell.sigma * cell.elements for cell in cells) / elements if elements else 0.0
