"""Recipes of any method: from files and plain values to the parameters of each tensor, or refused in two lines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mi_kernels import ArgumentError, Recipe, Rule
from mi_kernels.checkpoint.names import classify
from mi_kernels.recipe.load import load
from mi_kernels.recipe.models import MergeRecipe, Slice, from_dict

AB = {"models": ["a", "b"]}
Q = "model.layers.{}.self_attn.q_proj.weight"
UP = "model.layers.{}.mlp.up_proj.weight"


def parameters(recipe: MergeRecipe, name: str, depth: int = 5) -> Any:
    return recipe.parameters(name, classify(name), depth)


def test_defaults() -> None:
    found = parameters(from_dict({"method": "ties", "base": "x", **AB}), Q.format(0))
    assert (found["weight"], found["density"], found["scale"], found["normalize"]) == (
        [1.0, 1.0],
        [1.0, 1.0],
        1.0,
        True,
    )
    found = parameters(from_dict({"method": "task_arithmetic", "base": "x", **AB}), Q.format(0))
    assert found == {"weight": [1.0, 1.0], "scale": 1.0, "normalize": False}
    recipe = from_dict({"method": "average", **AB})
    assert (recipe.models, recipe.base, recipe.dtype, recipe.copy_from) == (("a", "b"), None, None, "thinking")


def test_a_models_own_parameters_come_before_those_of_all() -> None:
    models = [{"model": "a", "weight": 0.25}, "b", {"model": "c", "weight": [{"filter": "mlp", "value": 7}]}]
    recipe = from_dict({"method": "linear", "models": models, "weight": 0.5})
    assert parameters(recipe, Q.format(0))["weight"] == [0.25, 0.5, 0.5]
    assert parameters(recipe, UP.format(0))["weight"] == [0.25, 0.5, 7.0]


def test_a_slices_parameters_stand_between() -> None:
    """A model's in this slice, then the slice's, then the global ones, then the defaults."""
    slices = (
        Slice(0, 2, ({"weight": 1}, {}), {"weight": 2, "density": 0.1}),
        Slice(2, 5, ({}, {"density": 0.9}), {"normalize": False}),
    )
    recipe = MergeRecipe("ties", ("a", "b"), "x", slices, {"weight": 3, "normalize": True})
    first, second = parameters(recipe, Q.format(1)), parameters(recipe, Q.format(2))
    assert (first["weight"], first["density"], first["normalize"]) == ([1, 2], [0.1, 0.1], True)
    assert (second["weight"], second["density"], second["normalize"]) == ([3, 3], [1.0, 0.9], False)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        (Q.format(0), 0.0),
        (Q.format(1), 1.0),  # the first slice's end
        (Q.format(2), 10.0),
        (Q.format(3), 15.0),
        (Q.format(4), 20.0),
        (Q.format(5), 31.0),  # a slice of one layer: its end
        ("model.embed_tokens.weight", 0.0),  # before the layers: the first slice's start
        ("model.norm.weight", 30.0),  # behind them: the last one's
        ("lm_head.weight", 30.0),
        ("transformer.word_embeddings_layernorm.weight", 0.0),
        ("embed_out.weight", 30.0),  # GPT-NeoX's head
    ],
)
def test_gradients_run_along_their_slice(name: str, weight: float) -> None:
    bounds = [(0, 2, [0, 1]), (2, 5, [10, 20]), (5, 6, [30, 31])]
    slices = tuple(Slice(start, stop, ({}, {}), {"weight": list(w)}) for start, stop, w in bounds)
    assert parameters(MergeRecipe("linear", ("a", "b"), None, slices), name, 6)["weight"] == [weight, weight]


def test_slices_must_cover_the_layers() -> None:
    recipe = MergeRecipe("linear", ("a", "b"), None, (Slice(0, 4, ({}, {}), {}),))
    for depth in (3, 5):
        with pytest.raises(ArgumentError, match=rf"end at layer 4, and the models have {depth} layers"):
            parameters(recipe, Q.format(0), depth)


def test_normalize_by_name_and_depth() -> None:
    recipe = from_dict({"method": "linear", **AB, "normalize": [{"filter": "mlp", "value": [True, False]}]})
    assert [parameters(recipe, UP.format(i))["normalize"] for i in range(5)] == [True, True, True, True, False]
    assert parameters(recipe, Q.format(4))["normalize"]  # no condition matches: the method's default
    recipe = from_dict(
        {"method": "task_arithmetic", "base": "x", **AB, "normalize": [{"filter": "mlp", "value": True}]}
    )
    assert parameters(recipe, UP.format(0))["normalize"]
    assert not parameters(recipe, Q.format(0))["normalize"]


def test_a_parameter_without_a_value() -> None:
    recipe = from_dict({"method": "slerp", **AB, "lam": [{"filter": "mlp", "value": 0.5}]})
    assert parameters(recipe, UP.format(0))["lam"] == 0.5
    with pytest.raises(ArgumentError, match=r"q_proj\.weight: lam has no value") as error:
        parameters(recipe, Q.format(0))
    assert error.value.remedy


def test_seeds_are_whole() -> None:
    recipe = from_dict({"method": "dare_ties", "base": "x", **AB, "seed": 2**60 + 1})
    assert parameters(recipe, Q.format(0))["seed"] == 2**60 + 1


def test_lerp_holds_a_recipe_of_two() -> None:
    content = {"method": "lerp", **AB, "lam": 0.8, "layers": "1:", "rules": [{"lam": 0, "modules": "attn"}]}
    recipe = from_dict({**content, "dtype": "float32", "copy_from": "instruct"})
    assert recipe.pair == Recipe(0.8, "1:", rules=(Rule(0, modules="attn"),))
    assert (recipe.dtype, recipe.copy_from) == ("float32", "instruct")


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no_method": (AB, ("method is missing", "with one of lerp, average")),
    "unknown_method": ({"method": "tiez", **AB}, ("method 'tiez' is unknown", "ties")),
    "method_that_is_no_text": ({"method": ["ties"], **AB}, ("method ['ties'] is unknown",)),
    "near_miss": ({"method": "ties", "densty": 0.2, **AB}, ("unknown key 'densty'", "Did you mean density?")),
    "lambda": ({"method": "ties", "lambda": 0.2, **AB}, ("unknown key 'lambda'", "Did you mean scale?")),
    "alpha": ({"method": "task_arithmetic", "alpha": 0.7, **AB}, ("Did you mean scale?",)),
    "base_model": ({"method": "ties", "base_model": "x", **AB}, ("Did you mean base?",)),
    "lerp_alpha": ({"method": "lerp", "alpha": 0.8, **AB}, ("unknown key 'alpha'", "Did you mean lam?")),
    "lerp_lambda": ({"method": "lerp", "lambda": 0.8, **AB}, ("Did you mean lam?",)),
    "lerp_t": ({"method": "lerp", "t": 0.8, **AB}, ("Did you mean lam?",)),
    "lerp_weight": ({"method": "lerp", "weight": 0.8, **AB}, ("lerp does not use weight", "Did you mean lam?")),
    "lerp_scale": ({"method": "lerp", "scale": 0.8, **AB}, ("lerp does not use scale", "Remove it")),
    "lerp_densty": ({"method": "lerp", "lam": 0.8, "densty": 0.8, **AB}, ("unknown key 'densty'", "The keys are")),
    "slerp_alpha": ({"method": "slerp", "alpha": 0.8, **AB}, ("Did you mean lam?",)),
    "slerp_ratio": ({"method": "slerp", "merge-ratio": 0.8, **AB}, ("Did you mean lam?",)),
    "layer_range": ({"method": "lerp", "lam": 1, "layer_range": "1:2", **AB}, ("Did you mean layers?",)),
    "modle": ({"method": "linear", "models": ["a", {"modle": "b"}]}, ("unknown key 'modle'", "Did you mean model?")),
    "alpha_of_a_model": (
        {"method": "linear", "models": ["a", {"model": "b", "weights": 2}]}, ("unknown key", "Did you mean weight?"),
    ),
    "alpha_of_a_slice": (
        {"method": "slerp", **AB, "slices": [{"layers": "0:", "alpha": 0.5}]}, ("unknown key", "Did you mean lam?"),
    ),
    "number_as_key": ({"method": "ties", 3: 4, **AB}, ("unknown key 3",)),
    "no_models": ({"method": "average"}, ("models None is not a list",)),
    "models_as_text": ({"method": "average", "models": "a,b"}, ("models 'a,b' is not a list",)),
    "empty_models": ({"method": "average", "models": []}, ("models [] is not a list",)),
    "model_that_is_a_number": ({"method": "average", "models": ["a", 3]}, ("3 is not a model",)),
    "model_without_name": ({"method": "linear", "models": ["a", {"weight": 1}]}, ("does not name a model", "model:")),
    "unknown_key_of_a_model": (
        {"method": "linear", "models": ["a", {"model": "b", "wieght": 1}]}, ("unknown key 'wieght'", "mean weight?"),
    ),
    "density_of_a_model_of_linear": (
        {"method": "linear", "models": ["a", {"model": "b", "density": 1}]}, ("b: linear does not use density",),
    ),
    "weight_of_a_model_of_lerp": (
        {"method": "lerp", "lam": 1, "models": ["a", {"model": "b", "weight": 1}]}, ("lerp takes two models",),
    ),
    "base_that_is_no_text": ({"method": "ties", "base": ["x"], **AB}, ("base ['x'] is not a model",)),
    "seventeen": ({"method": "average", "models": list("abcdefghijklmnopq")}, ("takes 2 to 16", "17 are given")),
    "sixteen_and_a_base": (
        {"method": "ties", "base": "x", "models": list("abcdefghijklmnop")}, ("takes 1 to 15", "16 are given"),
    ),
    "weight_that_is_text": ({"method": "linear", "weight": "heavy", **AB}, ("weight is 'heavy', which is",)),
    "weight_that_is_inf": ({"method": "linear", "weight": float("inf"), **AB}, ("weight is inf, which is not finite",)),
    "weight_of_a_model_that_is_nan": (
        {"method": "linear", "models": ["a", {"model": "b", "weight": float("nan")}]}, ("b: weight is nan",),
    ),
    "normalize_that_is_a_number": ({"method": "linear", "normalize": 0.5, **AB}, ("normalize is 0.5, which",)),
    "seed_that_is_a_fraction": ({"method": "dare_ties", "base": "x", "seed": 1.5, **AB}, ("seed is 1.5, which",)),
    "seed_that_is_a_list": ({"method": "dare_ties", "base": "x", "seed": [1], **AB}, ("seed is a list, wh",)),
    "dtype_of_lerp": ({"method": "lerp", "lam": 1, "dtype": {"a": 1}, **AB}, ("dtype {'a': 1} is not text",)),
    "copy_from_that_is_a_list": ({"method": "average", "copy_from": ["a"], **AB}, ("copy_from ['a'] is not text",)),
    "seed_of_lerp": ({"method": "lerp", "lam": 1, "seed": 1, **AB}, ("lerp does not use seed",)),
    "rules_of_lerp": ({"method": "lerp", "lam": 1, "rules": [{"modules": "ffn"}], **AB}, ("rule 1: lam is missing",)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    content, words = REFUSED[case]
    with pytest.raises(ArgumentError) as error:
        from_dict(content)
    assert len(str(error.value).splitlines()) == 2
    for word in words:
        assert word in str(error.value)


def test_every_method_of_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text("method: ties\nbase: x\nmodels: [a, {model: b, weight: 0.5}]\nlayers: 12:36\ndensity: 2e-1\n")
    recipe = load(path)
    assert (recipe.method, recipe.layers, recipe.settings) == ("ties", "12:36", {"density": 0.2})
    path.write_text("merge_method: linear\nmodels:\n- {model: a}\n- {model: b}\nparameters: {weight: 1}\n")
    assert load(str(path)).models == ("a", "b")


BOMB = "a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))

FILES: dict[str, tuple[bytes, str]] = {
    "bad_yaml": (b"method: [ties", "is not valid YAML"),
    "tabs": (b"method:\tties\n\tmodels: 3", "is not valid YAML"),
    "not_utf8": (b"method: \xff\xfe", "is not valid YAML"),
    "binary": (b"\x00\x01\x02", "is not valid YAML"),
    "objects": (b"!!python/object/apply:os.system ['true']", "is not valid YAML"),
    "objects_within": (b"method: ties\nmodels: !!python/name:os.system", "is not valid YAML"),
    "two_documents": (b"a: 1\n---\nb: 2", "holds several configurations"),
    "twice": (b"method: ties\nmethod: ties", "given twice"),
    "bomb": (BOMB.encode(), "more values"),
    "deep": (b"[" * 100_000, "is not valid YAML"),
    "bad_octal": (b"lam: 09", "is not valid YAML"),
    "list": (b"[ties]", "does not hold a mapping"),
    "text": (b"ties", "does not hold a mapping"),
    "empty": (b"", "does not hold a mapping"),
    "large": (b"# " + b"x" * (2 << 20), "is larger than 256 KiB"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_refused(tmp_path: Path, case: str) -> None:
    content, words = FILES[case]
    path = tmp_path / "recipe.yml"
    path.write_bytes(content)
    with pytest.raises(ArgumentError) as error:
        load(path)
    assert words in error.value.problem
    assert error.value.problem.startswith(str(path))
    assert len(str(error.value).splitlines()) == 2
    assert len(str(error.value)) < 1000


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yml", tmp_path):
        with pytest.raises(ArgumentError, match="cannot be read"):
            load(path)
    if os.geteuid() != 0:
        path = tmp_path / "secret.yml"
        path.write_text("method: ties")
        path.chmod(0)
        with pytest.raises(ArgumentError, match="cannot be read"):
            load(path)
