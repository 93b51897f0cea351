"""Every space: the blocks that it has, and the recipe that weights stand for."""

from __future__ import annotations

import pytest

from eval.errors import EvalError
from eval.tune.space import by_place, parse
from mi_kernels import Recipe, Rule
from mi_kernels.checkpoint.names import places

from ..support import landscape

NAMES = landscape.names()


def space(text: str):
    return parse(text, list(places(NAMES).values()))


def weights_of(text: str, *values: float) -> dict[tuple[str, int | None], float]:
    made = space(text)
    assert len(values) == len(made.blocks)
    return by_place(made.recipe(dict(zip([b.name for b in made.blocks], values))), NAMES)


def test_lam_is_one_weight_for_everything():
    assert [b.name for b in space("lam").blocks] == ["lam"]
    assert space("lam").recipe({"lam": 0.37}) == Recipe(0.37)


def test_modules_have_a_weight_each_and_others_the_mean():
    assert [b.name for b in space("modules").blocks] == ["attn", "ffn", "norm", "embed"], "this model has no head"
    found = weights_of("modules", 0.2, 0.4, 0.6, 1.0)
    assert found["attn", 3] == 0.2
    assert found["ffn", 0] == 0.4
    assert found["norm", 1] == 0.6
    assert found["embed", None] == 1.0
    with_other = parse("modules", list(places([*NAMES, "something.else"]).values()))
    recipe = with_other.recipe({"attn": 0.2, "ffn": 0.4, "norm": 0.6, "embed": 1.0})
    assert recipe.weights([*NAMES, "something.else"])["something.else"] == 0.55


def test_layers_have_a_weight_each_and_the_rest_the_mean():
    found = weights_of("layers", 0.0, 0.2, 0.4, 1.0)
    assert [found["attn", i] for i in range(4)] == [0.0, 0.2, 0.4, 1.0]
    assert found["norm", 2] == 0.4, "a layer's norms belong to the layer"
    assert found["embed", None] == 0.4, "the mean of 0, 0.2, 0.4 and 1"


def test_blocks_of_layers_cover_all_layers_in_order_and_differ_by_one_at_most():
    deep = [p for name in NAMES[1:2] for i in range(11) for p in places([name.replace(".0.", f".{i}.")]).values()]
    made = parse("layers:3", deep)
    assert [b.layers for b in made.blocks] == [(0, 3), (3, 7), (7, 11)]
    found = weights_of("layers:2", 0.3, 0.6)
    assert [found["ffn", i] for i in range(4)] == [0.3, 0.3, 0.6, 0.6]
    assert found["embed", None] == 0.45


def test_modules_of_blocks_and_the_norms_between_them():
    made = space("layers:2xmodules")
    assert [b.name for b in made.blocks] == ["layers 0:2 attn", "layers 0:2 ffn", "layers 2:4 attn", "layers 2:4 ffn"]
    found = weights_of("layers:2xmodules", 0.1, 0.3, 0.5, 0.9)
    assert (found["attn", 1], found["ffn", 1], found["norm", 1]) == (0.1, 0.3, 0.2)
    assert (found["attn", 2], found["ffn", 3], found["norm", 3]) == (0.5, 0.9, 0.7)
    assert found["embed", None] == 0.45
    assert [b.name for b in space("layersxmodules").blocks][:2] == ["layer 0 attn", "layer 0 ffn"]


@pytest.mark.parametrize("text", ["lam", "modules", "layers", "layers:3", "layers:2xmodules", "layersxmodules"])
def test_equal_weights_are_the_plain_interpolation(text):
    for lam in (0.0, 0.3, 0.85, 1.0):
        assert space(text).recipe(space(text).uniform(lam)) == Recipe(lam)


def test_weights_are_rounded_and_stay_in_range():
    recipe = space("layers:2").recipe({"layers 0:2": 0.12449, "layers 2:4": 1.0000001})
    assert recipe.rules == (Rule(0.124, layers="0:2"), Rule(1.0, layers="2:4"))
    assert recipe.lam == 0.562


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("layers:5", "5 blocks of layers, and the model has 4 layers", "from 1 to 4"),
        ("layers:0", "0 blocks of layers", "from 1 to 4"),
        ("module", "--space is 'module'", "Did you mean modules"),
        ("lam:3", "--space is 'lam:3'", "layers:6xmodules"),
        ("modulesxmodules", "--space is 'modulesxmodules'", "Choose one of"),
        ("", "--space is ''", "Choose one of"),
    ],
)
def test_what_is_no_space_is_refused(text, problem, remedy):
    with pytest.raises(EvalError) as error:
        space(text)
    assert problem in error.value.problem
    assert remedy in error.value.remedy


def test_a_model_without_layers_has_other_spaces():
    with pytest.raises(EvalError, match="the model has 0 layers"):
        parse("layers", list(places(["model.embed_tokens.weight"]).values()))


def test_without_a_space_there_are_six_blocks_or_all_layers():
    deep = list(places([f"model.layers.{i}.mlp.up_proj.weight" for i in range(36)]).values())
    assert parse(None, deep).text == "layers:6"
    assert parse(None, list(places(NAMES).values())).text == "layers"
    assert parse(None, list(places(NAMES[:1]).values())).text == "modules"
