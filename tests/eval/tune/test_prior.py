"""Candidates by the distance of the two models: the formula, on a pair whose last layers differ most."""

from __future__ import annotations

import pytest

from eval.tune import prior
from eval.tune.space import parse
from mi_kernels import similarity
from mi_kernels.checkpoint.names import places

from ..support import landscape


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return similarity(*landscape.pair(tmp_path_factory.mktemp("pair")), progress=False)


def space(text: str):
    return parse(text, list(places(landscape.names()).values()))


def test_weights_follow_the_distance_and_its_inverse(found):
    made = dict(prior.candidates(space("layers"), found))
    assert len(made) == 4
    forward = list(made["more where the models differ more, about 0.5"].values())
    backward = list(made["more where the models differ less, about 0.5"].values())
    assert forward == sorted(forward)
    assert forward[0] < 0.4 < 0.6 < forward[3]
    assert backward == sorted(backward, reverse=True)
    assert sum(forward) / 4 == pytest.approx(0.5)
    assert all(0 <= w <= 1 for weights in made.values() for w in weights.values())


def test_spread_by_hand():
    assert prior.spread(0.5, {"a": 0.5, "b": 1.5}) == {"a": 0.25, "b": 0.75}
    assert prior.spread(0.75, {"a": 0.5, "b": 1.5}) == {"a": 0.375, "b": 1.0}, "no weight is above 1"


def test_ratios_are_limited(found):
    blocks = space("layers").blocks
    ratios = prior.relative(blocks, found)
    cells = {b.name: [m for (layer, _), m in found.cells.items() if layer == b.layers[0]] for b in blocks}
    sigma = {k: sum(m.sigma * m.elements for m in v) / sum(m.elements for m in v) for k, v in cells.items()}
    mean = sum(sigma.values()) / 4
    assert ratios == {k: pytest.approx(max(0.25, min(4, s / mean))) for k, s in sigma.items()}


def test_equal_distances_give_no_candidates(tmp_path):
    instruct, _ = landscape.pair(tmp_path)
    assert prior.candidates(space("layers"), similarity(instruct, instruct, progress=False)) == []


def test_blocks_of_one_module(found):
    ratios = prior.relative(space("modules").blocks, found)
    assert set(ratios) == {"attn", "ffn", "norm", "embed"}
