"""Recipe files and dicts of the same content: what is wrong with them is said with the name of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mi_kernels import ArgumentError, Recipe, merge_checkpoint
from mi_kernels.merge.api import plan_merge
from mi_kernels.recipe.load import load

from ..support.checks import World, run_cli


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("recipes"))


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "lam": ({"method": "lerp", "lam": 2}, "lam is 2", "`extrapolate: true`"),
    "lam_that_is_text": ({"method": "lerp", "lam": "0.5"}, "lam is '0.5', which is text", "Remove the quotes"),
    "no_anchors": ({"method": "lerp", "lam": []}, "lam is an empty list", "anchors"),
    "no_lam": ({"method": "lerp"}, "lam is missing", "Add lam"),
    "extrapolate": ({"method": "lerp", "lam": 0, "extrapolate": 3}, "extrapolate: 3", "true or false"),
    "rules": ({"method": "lerp", "lam": 0, "rules": 3}, "rules: 3 is not a list", "list of rules"),
    "lam_of_a_rule": ({"method": "lerp", "lam": 0, "rules": [{"lam": 7}]}, "rule 1: lam is 7", "extrapolate: true"),
    "modules": ({"method": "lerp", "lam": 0.5, "modules": "mlp"}, "modules: mlp unknown", "Did you mean ffn?"),
    "modules_of_a_rule": ({"method": "lerp", "lam": 0, "rules": [{"lam": 1, "modules": "mlp"}]}, "rule 1: mod", "ffn"),
    "layers": ({"method": "lerp", "lam": 0.5, "layers": "90:"}, "layers: 90", "bounds"),
    "layers_of_average": ({"method": "average", "layers": "x"}, "layers: 'x' is not a range", "12:36"),
    "modules_of_linear": ({"method": "linear", "modules": "atn"}, "modules: atn unknown", "Did you mean attn?"),
    "pattern": ({"method": "lerp", "lam": 0, "rules": [{"lam": 1, "pattern": "zz"}]}, "rule 1: pattern 'zz'", "model"),
    "dtype": ({"method": "average", "dtype": "float8"}, "dtype 'float8' is unknown", "bfloat16"),
    "copy_from": ({"method": "average", "copy_from": "base"}, "copy_from is 'base'", "instruct"),
    "copy_from_of_lerp": ({"method": "lerp", "lam": 0.5, "copy_from": "7"}, "copy_from is '7'", "instruct"),
    "no_value": (
        {"method": "slerp", "lam": [{"filter": "mlp", "value": 0.5}]}, "lam has no value", "every tensor"
    ),
    "density": ({"method": "average", "density": 2}, "average does not use density", "Remove it"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_every_error_names_the_file(world: World, tmp_path: Path, case: str) -> None:
    content, problem, remedy = WRONG[case]
    content = {**content, "models": [str(world.instruct), str(world.thinking)]}
    file = tmp_path / "my recipe.yml"
    file.write_text(yaml.safe_dump(content))
    for given, name in ((file, str(file)), (content, "the recipe")):
        with pytest.raises(ArgumentError) as error:
            plan_merge(given, tmp_path / "out")
        assert error.value.problem.startswith(f"{name}: ")
        assert problem in error.value.problem
        assert remedy in error.value.remedy
        assert error.value.argument is None


def test_the_command_line_does_not_spell_keys_as_options(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.yml"
    models = [str(world.instruct), str(world.thinking)]
    file.write_text(yaml.safe_dump({"method": "lerp", "lam": 1.5, "models": models}))
    assert run_cli(["merge", str(file), "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert f"{file}: lam is 1.5" in err
    assert "`extrapolate: true`" in err
    assert "--extrapolate" not in err


def test_an_option_replaces_a_wrong_key(world: World, tmp_path: Path) -> None:
    recipe = {"method": "average", "models": [str(world.instruct), str(world.thinking)], "copy_from": "base"}
    assert plan_merge(recipe, tmp_path / "out", copy_from="instruct").options.copy_from == "instruct"
    with pytest.raises(ArgumentError, match=r"^dtype 'float8' is unknown"):  # of the call, and not of the recipe
        plan_merge(recipe, tmp_path / "out", copy_from="instruct", dtype="float8")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"models": [{"model": "a", "parameters": {"weight": 1}}, {"model": "b"}]}, "merge_method is missing"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]}, "merge_method is missing"),
        ({"base_model": "a", "models": [{"model": "b"}]}, "merge_method is missing"),
        ({"models": [{"model": "a", "weight": 1}, "b"]}, "method is missing"),  # ours
        ({"slices": [{"layers": "0:", "weight": 1}], "models": ["a", "b"]}, "method is missing"),
        (
            {"method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}, "b"]},
            "unknown key 'parameters'",
        ),
    ],
)
def test_whose_method_is_missing(content: dict[str, Any], problem: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ArgumentError) as error:
        load(file)
    assert error.value.problem.removeprefix(f"{file}: ").removeprefix("models: ").startswith(problem)
    if problem == "merge_method is missing":
        assert error.value.remedy.startswith("Add `merge_method:` with one of ")


def test_a_mergekit_configuration_as_a_dict(world: World, tmp_path: Path) -> None:
    """With tuples where YAML has lists, as Python code writes them."""
    entries = tuple(
        {"model": str(m), "parameters": {"weight": w}} for m, w in ((world.instruct, 1), (world.thinking, 3))
    )
    content = {"merge_method": "linear", "models": entries, "dtype": "float32"}
    file = tmp_path / "c.yml"
    file.write_text(yaml.safe_dump({**content, "models": list(entries)}))
    merge_checkpoint(content, tmp_path / "dict", progress=False)
    merge_checkpoint(file, tmp_path / "file", progress=False)
    shards = sorted(path.name for path in (tmp_path / "file").glob("*.safetensors"))
    assert shards
    for name in shards:
        assert (tmp_path / "dict" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()
    with pytest.raises(ArgumentError, match=r"^the recipe: merge_method 'liner' is not supported\nDid you mean linear"):
        merge_checkpoint({**content, "merge_method": "liner"}, tmp_path / "none")


def test_recipes_made_as_objects_are_named_too(world: World, tmp_path: Path) -> None:
    from mi_kernels import MergeRecipe

    recipe = MergeRecipe("lerp", (str(world.instruct), str(world.thinking)), pair=Recipe(0.5, modules="mpl"))
    with pytest.raises(ArgumentError, match=r"^the recipe: modules: mpl unknown"):
        plan_merge(recipe, tmp_path / "out")
