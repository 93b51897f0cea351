"""What a search varies: the weights of blocks of tensors, and the recipe of a set of weights.

    lam                  one weight for all tensors: a plain interpolation
    modules              one weight for each module: attn, ffn, router, norm, embed, head, as far as the model has them
    layers               one weight for each decoder layer
    layers:6             one weight for each of 6 blocks of consecutive layers, whose sizes differ by at most one
    layers:6xmodules     one weight for each module of each block of layers, norms excepted
    layersxmodules       one weight for each module of each layer, norms excepted

Tensors in no block get the mean of all weights: embeddings, head and final norm beside layers, tensors that no mask
selects beside modules. In `layers...xmodules`, the norms of a block of layers get the mean of the block's weights. So
equal weights are always the plain interpolation with that lam.

Weights are rounded to 3 decimals: a search cannot tell closer ones apart, and recipes stay readable.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mi_kernels import Recipe, Rule
from mi_kernels.checkpoint.names import MODULES, Place
from mi_kernels.checkpoint.names import places as places_of
from mi_kernels.errors import nearest

from ..errors import EvalError

DECIMALS = 3
_BLOCKS = 6
_FORM = re.compile(r"(lam|modules|layers)(?::([0-9]+))?(x ?modules)?")
_FORMS = ("lam", "modules", "layers", "layers:6", "layers:6xmodules")


@dataclass(frozen=True)
class Block:
    """Tensors that share a weight.

    Attributes:
        name: of the weight, such as "layers 0:2 attn".
        layers: the first layer and the one after the last; None for all tensors.
        module: None for every module.
    """

    name: str
    layers: tuple[int, int] | None
    module: str | None

    @property
    def range(self) -> str | None:
        """The layers as a mask: "0:2"."""
        return None if self.layers is None else f"{self.layers[0]}:{self.layers[1]}"


@dataclass(frozen=True)
class Space:
    """A space of recipes.

    Attributes:
        text: as the user wrote it.
        blocks: one weight each; a single block without layers and module is lam.
        depth: the number of decoder layers. modules: those of the model, in the order of MODULES.
    """

    text: str
    blocks: Sequence[Block]
    depth: int
    modules: Sequence[str]

    def uniform(self, lam: float) -> dict[str, float]:
        """The weights of the plain interpolation with `lam`."""
        return {block.name: lam for block in self.blocks}

    def recipe(self, weights: Mapping[str, float]) -> Recipe:
        """The recipe for the weights of all blocks, by their names. See the docstring of the module.

        >>> from eval.tune.space import parse
        >>> from mi_kernels.checkpoint.names import Place
        >>> space = parse("layers:2", [Place("attn", i) for i in range(4)])
        >>> space.recipe({"layers 0:2": 0.4, "layers 2:4": 0.8}).to_dict()
        {'lam': 0.6, 'rules': [{'lam': 0.4, 'layers': '0:2'}, {'lam': 0.8, 'layers': '2:4'}]}
        """
        values = [_rounded(weights[block.name]) for block in self.blocks]
        rest = _mean(values)
        if len(set(values)) == 1:
            return Recipe(values[0])
        rules = []
        ranges = list(dict.fromkeys(block.range for block in self.blocks))
        for layers in ranges:
            inside = [(b, v) for b, v in zip(self.blocks, values) if b.range == layers]
            if layers is not None and inside[0][0].module is not None:
                rules.append(Rule(_mean([v for _, v in inside]), layers=layers))
            rules += [Rule(v, layers=layers, modules=b.module) for b, v in inside]
        return Recipe(rest, rules=tuple(rules))


def parse(text: str | None, places: Sequence[Place]) -> Space:
    """The space that `text` names, for a model with tensors at `places`. None: six blocks of layers, or all layers.

    Raises:
        EvalError: the form is unknown, or the model has fewer layers than blocks.
    """
    depth = 1 + max((p.layer for p in places if p.layer is not None), default=-1)
    if text is None:
        text = f"layers:{_BLOCKS}" if depth >= _BLOCKS else "layers" if depth else "modules"
    match = _FORM.fullmatch(text.replace(" ", ""))
    if match is None or (match[1] != "layers" and (match[2] or match[3])):
        close = nearest(text, _FORMS)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise EvalError(f"--space is {text!r}", f"{hint}Choose one of {', '.join(_FORMS)}.")
    modules = [m for m in MODULES if any(p.module == m for p in places)]
    if match[1] == "lam":
        return Space("lam", [Block("lam", None, None)], depth, modules)
    if match[1] == "modules":
        if not modules:
            raise EvalError("--space is modules, and no tensor belongs to a known module", "Use --space lam.")
        return Space("modules", [Block(m, None, m) for m in modules], depth, modules)
    count = int(match[2]) if match[2] else depth
    if not 1 <= count <= depth:
        blocks = "1 block" if count == 1 else f"{count} blocks"
        raise EvalError(
            f"--space is {text}: {blocks} of layers, and the model has {depth} layers",
            f"Choose from 1 to {depth} blocks." if depth else "Use --space modules or lam.",
        )
    edges = [depth * i // count for i in range(count + 1)]
    blocks = []
    for start, stop in itertools.pairwise(edges):
        name = f"layers {start}:{stop}" if stop - start > 1 else f"layer {start}"
        if not match[3]:
            blocks.append(Block(name, (start, stop), None))
            continue
        inside = {p.module for p in places if p.layer is not None and start <= p.layer < stop}
        blocks += [Block(f"{name} {m}", (start, stop), m) for m in modules if m in inside and m != "norm"]
    return Space(match[0], blocks, depth, modules)


def _rounded(weight: float) -> float:
    return round(min(1.0, max(0.0, weight)), DECIMALS) + 0.0  # never -0.0


def _mean(values: Sequence[float]) -> float:
    return _rounded(sum(values) / len(values))


def by_place(recipe: Recipe, names: Sequence[str]) -> dict[tuple[str, int | None], float]:
    """The mean weight of the tensors of each (module, layer) under `recipe`; the layer is None outside of layers."""
    found: dict[tuple[str, int | None], list[float]] = {}
    where = places_of(names)
    for name, weight in recipe.weights(names).items():
        found.setdefault((where[name].module, where[name].layer), []).append(weight)
    return {place: sum(values) / len(values) for place, values in found.items()}
