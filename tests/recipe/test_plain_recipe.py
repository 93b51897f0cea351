"""A recipe as plain values and as YAML: reading it back gives the same merge."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from mi_kernels import ArgumentError, Recipe
from mi_kernels.checkpoint.names import classify
from mi_kernels.methods.registry import METHODS
from mi_kernels.recipe.load import load
from mi_kernels.recipe.mergekit import from_mergekit
from mi_kernels.recipe.models import MergeRecipe, from_dict
from mi_kernels.recipe.plain_recipe import plain_recipe
from mi_kernels.recipe.yaml_loader import Loader
from mi_kernels.recipe.yaml_writer import yaml_block, yaml_value

from ..support.methods import drawn_cases, recipe

NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(6) for part in ("self_attn.q_proj", "mlp.up_proj")),
    "model.norm.weight",
    "lm_head.weight",
]


def parameters(made: MergeRecipe) -> list[Any]:
    return [made.parameters(name, classify(name), 6) for name in NAMES]


def read_back(made: MergeRecipe, folder: Path) -> MergeRecipe:
    """Writes the recipe to a file and reads it, as a user does with the text of a card."""
    path = folder / "recipe.yml"
    path.write_text(yaml_block(plain_recipe(made)), encoding="utf-8", errors="surrogateescape")
    return load(path)


def assert_same(made: MergeRecipe, again: MergeRecipe) -> None:
    for key in ("method", "models", "base", "pair", "layers", "modules", "dtype", "copy_from"):
        assert getattr(again, key) == getattr(made, key), key
    if made.pair is None:
        assert parameters(again) == parameters(made)


CASES = drawn_cases()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_method(tmp_path: Path, case: Any) -> None:
    paths = [f"m{i}" for i in range(20)]
    made = from_dict({**recipe(case, paths), "layers": "1:3,-1:", "modules": ["ffn"], "dtype": "float16"})
    assert_same(made, read_back(made, tmp_path))
    assert {p.name for p in METHODS[made.method].parameters} <= {
        *plain_recipe(made),
        *(key for model in plain_recipe(made)["models"] if isinstance(model, dict) for key in model),
    }  # also those with their default


def test_an_interpolation(tmp_path: Path) -> None:
    rules = [{"lam": [0, 1.5], "layers": "1/3:"}, {"lam": 1e-07, "pattern": r"^a\.b$|\"'"}]
    content = {"method": "lerp", "models": ["a", "b"], "lam": 0.1, "rules": rules, "extrapolate": True}
    made = from_dict({**content, "copy_from": "instruct"})
    assert_same(made, read_back(made, tmp_path))
    sliced = MergeRecipe("lerp", ("a", "b"), pair=Recipe(0.5, layers=slice(1, None)))
    assert plain_recipe(sliced)["layers"] == "1:"


def mergekit(**content: Any) -> MergeRecipe:
    return from_mergekit({"models": [{"model": "a"}, {"model": "b"}], **content}, "config.yml")


def sources(start: int, stop: int, *weights: Any) -> dict[str, Any]:
    models = zip("ab", weights)
    return {
        "sources": [
            {"model": m, "layer_range": [start, stop], **({} if w is None else {"parameters": {"weight": w}})}
            for m, w in models
        ]
    }


def test_slices(tmp_path: Path) -> None:
    parts = [
        sources(0, 2, 1, [{"filter": "mlp", "value": [2, 3]}, {"value": 4}]),
        {**sources(2, 6, None, 0.5), "parameters": {"density": [0.1, 0.9], "weight": 2}},
    ]
    made = from_mergekit(
        {"merge_method": "ties", "base_model": "x", "slices": parts, "parameters": {"lambda": 0.3}}, "config.yml"
    )
    assert_same(made, read_back(made, tmp_path))
    assert [part["layers"] for part in plain_recipe(made)["slices"]] == ["0:2", "2:6"]


def test_one_slice_of_all_layers_is_no_slice() -> None:
    made = from_mergekit({"merge_method": "linear", "slices": [sources(0, 6, 1, 2)]}, "config.yml")
    assert plain_recipe(made) == {
        "method": "linear",
        "models": [{"model": "a", "weight": 1}, {"model": "b", "weight": 2}],
        "normalize": True,
        "copy_from": "instruct",  # mergekit's choice
    }


@pytest.mark.parametrize("default", [True, False])
def test_the_defaults_of_mergekit_become_values(tmp_path: Path, default: bool) -> None:
    """Where a condition has no match, mergekit's default decides, whatever ours is."""
    setting = [{"filter": "mlp", "value": [{"filter": "layers.2", "value": not default}]}, {"filter": "q", "value": 1}]
    made = MergeRecipe(
        "linear", ("a", "b"), settings={"normalize": setting}, defaults={"normalize": default, "weight": 1}
    )
    found = parameters(made)
    assert {values["normalize"] for values in found} == {True, False}
    again = read_back(made, tmp_path)
    assert parameters(again) == found


def test_slices_that_are_wrong_are_refused() -> None:
    def refused(*slices: Any) -> str:
        with pytest.raises(ArgumentError) as error:
            from_dict({"method": "linear", "models": ["a", "b"], "slices": list(slices)})
        assert error.value.remedy
        return error.value.problem

    assert "is not a list" in refused()
    assert "is not a slice" in refused("0:2")
    assert "unknown key 'layer'" in refused({"layer": "0:2"})
    assert "layers '1:2' is not 0:STOP" in refused({"layers": "1:2"})
    assert "layers '0:0' is not 0:STOP" in refused({"layers": "0:0"})
    assert "layers None is not 0:STOP" in refused({})
    assert "layers '3:4' is not 2:STOP" in refused({"layers": "0:2"}, {"layers": "3:4"})
    assert "without an end" in refused({"layers": "0:"}, {"layers": "2:4"})
    assert "has the models b, a, not a, b" in refused({"layers": "0:", "models": ["b", "a"]})
    assert "linear does not use density" in refused({"layers": "0:", "models": [{"model": "a", "density": 1}, "b"]})
    assert "not a number" in refused({"layers": "0:", "weight": "x"})
    with pytest.raises(ArgumentError, match="slices end at layer 4, and the models have 6 layers"):
        parameters(from_dict({"method": "linear", "models": ["a", "b"], "slices": [{"layers": "0:4"}]}))
    with pytest.raises(ArgumentError, match="lerp does not use slices"):
        from_dict({"method": "lerp", "models": ["a", "b"], "lam": 0, "slices": []})


def test_a_models_weight_holds_in_every_slice_without_one() -> None:
    made = from_dict(
        {
            "method": "linear",
            "models": [{"model": "a", "weight": 5}, "b"],
            "slices": [{"layers": "0:2", "weight": 2}, {"layers": "2:", "models": ["a", {"model": "b", "weight": 3}]}],
        }
    )
    found = {name: made.parameters(name, classify(name), 6)["weight"] for name in NAMES}
    assert (found[NAMES[1]], found[NAMES[-3]]) == ([5, 2], [5, 3])


WORDS = (
    *("no", "y", "Yes", "null", "~", "12:36", "1e5", "0x1f", "1_000", ".5", ".", "..", "-", "---", "", " ", "a b"),
    *("a: b", "a #b", "#a", "- a", "{a}", "[a]", "*a", "&a", "!a", "|", ">", "%a", "@a", "`a`", '"', "'", "\\", "a,b"),
    *(
        "é",
        "模型",
        "😀",
        "\n",
        "\t",
        "\x00",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\udcff",
        "./a/b-c_d.e+f@g",
        "=",
        "<<",
    ),
    *(".inf", ".NaN", "-.inf", "+1", "0o7", "1.", "2026-11-27", "true", "ON"),
)


@pytest.mark.parametrize("loader", [Loader, yaml.SafeLoader])
def test_yaml_is_read_back_unchanged(loader: Any) -> None:
    rng = random.Random(1)
    values: list[Any] = [*WORDS, None, True, False, 0, -1, 2**62, 0.1, 1e-05, -1e300, 1e22, 5.0, float("inf")]
    signs = "ab:#-?,[]{}&*!|>'\"%@` \n\\é😀\x01./+_0"
    values += ["".join(rng.choices(signs, k=rng.randint(1, 6))) for _ in range(500)]
    for value in values:
        for shape in (value, [value, value], {"k": value}, {"k": [{"f": value}]}, {str(value): 1}):
            text = yaml_block({"models": [shape], "key": shape})
            assert yaml.load(text, loader) == {"models": [shape], "key": shape}, text
            assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) == {"\n"}
        assert "\n" not in yaml_value(value)
