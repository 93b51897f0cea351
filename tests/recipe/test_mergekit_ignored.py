"""What mergekit ignores in a configuration is ignored with a note. A misspelt name is refused with the nearest one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from mi_kernels import ArgumentError
from mi_kernels.methods.method import Method
from mi_kernels.methods.registry import METHODS
from mi_kernels.recipe.mergekit import from_mergekit
from mi_kernels.recipe.mergekit_names import FORMER_PARAMETERS, KEYS, PARAMETERS

from ..support.mergekit_files import PAIR, read

SUPPORTED = [method for method in METHODS.values() if method.mergekit is not None]
by_method = pytest.mark.parametrize("method", SUPPORTED, ids=[method.name for method in SUPPORTED])


def configuration(method: Method) -> dict[str, Any]:
    """A configuration of `method` in slices, which has a place for parameters at every level."""
    spelling = method.mergekit
    assert spelling is not None
    models = ["x", "a"] if spelling.base == "first" else ["x", "a", "b"] if method.base != "none" else ["a", "b"]
    needed = {p.mergekit: 0.5 for p in method.parameters if p.mergekit in ("weight", "t", "lam")}
    entries = [{"model": m, "layer_range": [0, 2], "parameters": {}} for m in models]
    return {
        "merge_method": spelling.name,
        **({"base_model": "x"} if "x" in models else {}),
        "slices": [{"sources": entries, "parameters": {}}],
        "parameters": needed,
    }


def levels(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The mappings of parameters: of all models, of a slice, of one model, and of the base_model."""
    part = config["slices"][0]
    yield "all", config["parameters"]
    yield "slice", part["parameters"]
    yield "model", part["sources"][-1]["parameters"]
    yield "base", part["sources"][0]["parameters"]


def test_levels_are_those_of_the_configuration() -> None:
    assert [name for name, _ in levels(configuration(METHODS["ties"]))] == ["all", "slice", "model", "base"]


VALUES: tuple[Any, ...] = (True, False, 0.3, [0, 1], [{"filter": "mlp", "value": 0.1}, {"value": 2}], "text", None)


@by_method
@pytest.mark.parametrize("level", ["all", "slice", "model", "base"])
def test_parameters_without_an_effect_are_ignored_with_one_note(method: Method, level: str) -> None:
    """Every parameter of any method, with values of any kind: what the recipe does is what it does without them."""
    used = {p.mergekit: p for p in method.parameters if p.mergekit is not None}
    assert method.mergekit is not None
    fixed = {key for key, only in method.mergekit.ignored.items() if only is not None}
    by_one = level in ("model", "base")
    given = [*PARAMETERS, *FORMER_PARAMETERS]
    names = [n for n in given if n not in used and n not in fixed]
    if by_one:  # those that are read for all models only
        names = [n for n in given if n not in used or not used[n].by_model]
    if level == "base" and "base_model" in configuration(method) and method.mergekit.base != "model":
        names = given
    without = from_mergekit(configuration(method), "c.yml")
    assert without.notes == ()
    for k, value in enumerate(VALUES):
        config = configuration(method)
        dict(levels(config))[level].update(dict.fromkeys(names, value))
        found = from_mergekit(config, "c.yml")
        assert found == without, value
        (note,) = found.notes
        assert note.startswith("c.yml: ignored, as in mergekit: ")
        name = names[k % len(names)]
        one = configuration(method)
        dict(levels(one))[level][name] = value
        (note,) = from_mergekit(one, "c.yml").notes
        assert name in note.removeprefix("c.yml: ").replace("(", " ").replace(",", " ").split()


@by_method
@pytest.mark.parametrize("level", ["all", "slice", "model"])
def test_parameters_with_an_effect_are_used_without_a_note(method: Method, level: str) -> None:
    for p in method.parameters:
        if p.mergekit is None or (level == "model" and not p.by_model):
            continue
        config = configuration(method)
        dict(levels(config))[level][p.mergekit] = 1
        found = from_mergekit(config, "c.yml")
        settings = {"all": found.settings, "slice": found.slices[0].settings, "model": found.slices[0].by_model[-1]}
        assert (settings[level][p.name], found.notes) == (1, ())


def misspelt(name: str, rng: np.random.Generator) -> str:
    """`name` with one letter dropped, doubled, or exchanged with its neighbour."""
    i = int(rng.integers(1, len(name) - 1))
    ways = (name[:i] + name[i + 1 :], name[:i] + name[i] + name[i:], name[:i] + name[i + 1] + name[i] + name[i + 2 :])
    return next(str(w) for w in rng.permutation(ways) if w != name)


@by_method
@pytest.mark.parametrize("level", ["all", "slice", "model", "base"])
def test_misspelt_parameters_are_refused_with_the_nearest_name(method: Method, level: str) -> None:
    rng = np.random.default_rng(7)
    for name in [n for n in (*PARAMETERS, *FORMER_PARAMETERS) if len(n) > 4]:
        config = configuration(method)
        wrong = misspelt(name, rng)
        dict(levels(config))[level][wrong] = 0.5
        with pytest.raises(ArgumentError) as error:
            from_mergekit(config, "c.yml")
        assert f"mergekit has no parameter {wrong!r}" in error.value.problem
        assert error.value.remedy.startswith(f"Did you mean {name}? {method.name} uses")


@pytest.mark.parametrize("wrong", ["foo", "zzz", "x", "learning_rate", "weightings_of_nobody"])
def test_parameters_unlike_any_are_refused_too(wrong: str) -> None:
    with pytest.raises(ArgumentError, match=f"no parameter '{wrong}'\n.*linear uses weight, normalize"):
        read(f"merge_method: linear\n{PAIR}parameters: {{{wrong}: 1}}")


WILD_KEYS: dict[str, Any] = {
    "name": "my-merge",
    "random_seed": 0,
    "seed": 42,
    "description": "text",
    "license": "apache-2.0",
    "version": 1,
    "tags": ["merge", "mergekit"],
    "adaptive_merge_parameters": {"task_weights": {"mmlu": 1.5}, "smoothing_factor": 0.1},
    "gradient_clipping": 1.0,
    "write_model_card": True,
    "allow_crimes": True,
    "x-common": {"weight": 1},
}


@pytest.mark.parametrize("key", [*WILD_KEYS, *PARAMETERS, *FORMER_PARAMETERS])
def test_keys_that_mergekit_does_not_know_are_ignored_with_a_note(key: str) -> None:
    text = f"merge_method: linear\n{PAIR}"
    found = read(text + yaml.safe_dump({key: WILD_KEYS.get(key, 0.5)}))
    assert found == read(text)
    (note,) = found.notes
    assert note.startswith(f"c.yml: ignored, as in mergekit: {key} (")
    assert ("unknown to mergekit" in note) == (key in WILD_KEYS)


def test_a_key_without_a_value_is_none() -> None:
    assert read(f"merge_method: linear\n{PAIR}name:\nmodules: null\nchat_template: ''").notes == ()


@pytest.mark.parametrize("key", [key for key in KEYS if key != "merge_method"])
def test_misspelt_keys_are_refused_with_the_nearest_name(key: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        wrong = misspelt(key, rng)
        with pytest.raises(ArgumentError) as error:
            read(f"merge_method: linear\n{PAIR}{wrong}: 1")
        assert error.value.problem == f"c.yml: {wrong}: the key is unknown"
        # One letter is missing in `modules`, or two are swapped in `models`, the key that every configuration has.
        assert f"Did you mean {'models' if wrong == 'modles' else key}?" in error.value.remedy


def test_one_note_names_all_that_is_ignored_and_why() -> None:
    """As in published configurations."""
    recipe = read("""
merge_method: task_arithmetic
base_model: org/base
name: wild
int8_mask: true
models:
  - {model: org/base, parameters: {weight: 1}}
  - {model: org/one, parameters: {weight: 0.4, density: 0.6, normalize: true, lambda: 2}}
  - {model: org/two, parameters: {weight: 0.6, gamma: 0.1}}
parameters: {int8_mask: true, rescale: false, normalize: false, t: 0.5}
tokenizer: {source: base, comment: text}
""")
    assert recipe.notes == (
        "c.yml: ignored, as in mergekit: name, comment of tokenizer (unknown to mergekit); "
        "int8_mask (only read under `parameters`); weight of org/base (not read for the base_model); "
        "density, gamma, int8_mask, rescale, t (no effect under task_arithmetic); "
        "normalize of org/one, lambda of org/one (only read for all models)",
    )
    assert recipe.settings == {"normalize": False}
    assert [dict(m) for m in recipe.slices[0].by_model] == [{"weight": 0.4}, {"weight": 0.6}]
