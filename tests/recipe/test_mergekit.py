"""mergekit's configurations: what they mean, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mi_kernels import ArgumentError, MIKernelsError, merge_checkpoint
from mi_kernels.checkpoint.names import classify
from mi_kernels.recipe.load import load
from mi_kernels.recipe.mergekit import from_mergekit
from mi_kernels.recipe.models import MergeRecipe
from mi_kernels.recipe.yaml_loader import Loader

from ..support.checks import snapshot
from ..support.models import assert_same_tensors, merge_reference, save, tiny
from ..support.models import load as tensors_of

Q = "model.layers.{}.self_attn.q_proj.weight"
UP = "model.layers.{}.mlp.up_proj.weight"


def read(text: str) -> MergeRecipe:
    return from_mergekit(yaml.load(text, Loader), "c.yml")


def parameters(recipe: MergeRecipe, name: str, depth: int = 4) -> Any:
    return recipe.parameters(name, classify(name), depth)


def test_linear() -> None:
    recipe = read("""
merge_method: linear
models:
  - model: org/one
    parameters: {weight: 1.0}
  - model: org/two
    parameters:
      weight: [0, 0.5, 1]
dtype: float16
""")
    assert (recipe.method, recipe.models, recipe.base) == ("linear", ("org/one", "org/two"), None)
    assert (recipe.dtype, recipe.copy_from) == ("float16", "instruct")
    assert parameters(recipe, Q.format(3))["weight"] == [1.0, 1.0]
    assert parameters(recipe, Q.format(0))["weight"] == [1.0, 0.0]
    assert parameters(recipe, Q.format(0))["normalize"]


TIES = """
merge_method: ties
base_model: org/base
models:
{base}  - model: org/one
    parameters: {{density: 0.5, weight: 0.3}}
  - model: org/two
    parameters:
      density: [1, 0.7, 0.1]
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
parameters:
  normalize: true
  int8_mask: true
  lambda: 0.9
dtype: float32
out_dtype: bfloat16
"""


@pytest.mark.parametrize("base", ["", "  - model: org/base\n", "  - {model: org/base, parameters: {weight: 9}}\n"])
def test_ties_with_the_base_in_the_list_or_not(base: str) -> None:
    recipe = read(TIES.format(base=base))
    assert (recipe.models, recipe.base) == (("org/one", "org/two"), "org/base")
    assert (recipe.dtype, recipe.copy_from) == ("bfloat16", "base")
    found = parameters(recipe, UP.format(0))
    assert (found["weight"], found["density"], found["scale"], found["normalize"]) == ([0.3, 0.5], [0.5, 1], 0.9, True)
    assert parameters(recipe, Q.format(3))["weight"] == [0.3, 0]
    assert parameters(recipe, Q.format(3))["density"] == [0.5, 0.1]


@pytest.mark.parametrize(
    ("method", "normalize"), [("ties", True), ("dare_ties", False), ("task_arithmetic", False), ("linear", True)]
)
def test_normalize_by_default_as_mergekit_does(method: str, normalize: bool) -> None:
    base = "" if method == "linear" else "base_model: x\n"
    text = f"merge_method: {method}\n{base}models: [{{model: a}}, {{model: b}}]\nparameters: {{weight: 1}}\n"
    assert parameters(read(text), Q.format(0))["normalize"] is normalize


def test_slerp_starts_from_the_base() -> None:
    recipe = read("""
merge_method: slerp
base_model: org/base
slices:
  - sources:
      - {model: org/other, layer_range: [0, 4]}
      - {model: org/base, layer_range: [0, 4]}
parameters:
  t:
    - {filter: self_attn, value: [0, 1]}
    - value: 0.5
""")
    assert (recipe.models, recipe.base, recipe.copy_from) == (("org/base", "org/other"), None, "instruct")
    assert parameters(recipe, Q.format(1))["lam"] == 1 / 3
    assert parameters(recipe, UP.format(1))["lam"] == 0.5


@pytest.mark.parametrize(
    ("listed", "models"),
    [("[{model: a}, {model: b}]", ("a", "b", "x")), ("[{model: x}, {model: a}]", ("x", "a"))],
)
def test_linear_merges_its_base_model_too(listed: str, models: tuple[str, ...]) -> None:
    """mergekit adds it to the models; config and tokenizer are its."""
    recipe = read(f"merge_method: linear\nbase_model: x\nmodels: {listed}\nparameters: {{weight: 1}}")
    assert (recipe.models, recipe.base) == (models, None)
    assert recipe.models[0 if recipe.copy_from == "instruct" else -1] == "x"


SLICES = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: 1}}
      - {model: b, layer_range: [0, 2]}
    parameters: {weight: [2, 3]}
  - sources:
      - {model: b, layer_range: [2, 4]}
      - {model: a, layer_range: [2, 4], parameters: {weight: [{filter: mlp, value: 5}]}}
parameters: {weight: [6, 7]}
"""


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        (Q.format(0), [1, 2]),
        (Q.format(1), [1, 3]),
        (Q.format(2), [6, 6]),
        (UP.format(3), [5, 7]),
        ("model.embed_tokens.weight", [1, 2]),  # the first slice's, at its start
        ("model.norm.weight", [6, 6]),  # the last slice's, at its start
        ("lm_head.weight", [6, 6]),
    ],
)
def test_source_before_slice_before_global(name: str, weights: list[float]) -> None:
    assert parameters(read(SLICES), name)["weight"] == weights


def test_slices_must_end_where_the_models_do() -> None:
    with pytest.raises(ArgumentError, match="end at layer 4, and the models have 6 layers"):
        parameters(read(SLICES), Q.format(0), 6)


PAIR = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"


@pytest.mark.parametrize(
    ("lines", "dtype"),
    [
        ("", None),
        ("dtype: bfloat16", "bfloat16"),
        ("dtype: float32\nout_dtype: bfloat16", "bfloat16"),
        ("out_dtype: torch.float16", "float16"),
        ("dtype: null", None),
    ],
)
def test_dtypes(lines: str, dtype: str | None) -> None:
    assert read(f"merge_method: linear\n{PAIR}{lines}").dtype == dtype


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ("org/name", "org/name"),
        ("org/name@v1.0", "org/name@v1.0"),
        ("./folder", "./folder"),
        ("{model: org/name}", "org/name"),
        ("{model: {path: org/name}}", "org/name"),
        ("{model: {path: org/name, revision: v1.0}}", "org/name@v1.0"),
        ("{model: {path: org/name, revision: null}, lora: null, override_architecture: null}", "org/name"),
        ("{path: org/name, revision: v1.0}", "org/name@v1.0"),
        ("org/name+org/adapter", "org/name+org/adapter"),
        ("{model: org/name@v1, lora: {path: org/adapter, revision: v2}}", "org/name@v1+org/adapter@v2"),
    ],
)
def test_references(given: str, reference: str) -> None:
    text = f"merge_method: task_arithmetic\nbase_model: {given}\nmodels: [{{model: b, parameters: {{weight: 1}}}}]"
    assert read(text).base == reference
    assert read(f"merge_method: linear\nmodels: [{{model: a}}, {{model: {given}}}]").models == ("a", reference)


@pytest.mark.parametrize(
    ("source", "copy_from"),
    [(None, "base"), ("base", "base"), ("x", "base"), ("a", "instruct"), ("b", "thinking"), ("{model: b}", "thinking")],
)
def test_tokenizer_source(source: str | None, copy_from: str) -> None:
    line = f"tokenizer_source: {source}" if source else ""
    assert read(f"merge_method: ties\nbase_model: x\n{PAIR}{line}").copy_from == copy_from


@pytest.mark.parametrize(("source", "copy_from"), [("base", "instruct"), ("x", "instruct"), ("a", "thinking")])
def test_tokenizer_source_of_slerp(source: str, copy_from: str) -> None:
    text = "merge_method: slerp\nbase_model: x\nmodels: [{model: a}]\nparameters: {t: 0.5}\n"
    assert read(text + f"tokenizer_source: {source}").copy_from == copy_from


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("task_arithmetic", "{density: 0.3, rescale: true, int8_mask: true}"),
        ("ties", "{rescale: false, int8_mask: true}"),
        ("dare_ties", "{rescale: true, int8_mask: false}"),
        ("model_stock", "{filter_wise: false}"),
    ],
)
def test_parameters_that_change_nothing(method: str, line: str) -> None:
    text = f"merge_method: {method}\nbase_model: x\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {line}"
    assert read(text).settings == {}


def test_a_weight_has_no_default() -> None:
    recipe = read("merge_method: linear\nmodels: [{model: a}, {model: b, parameters: {weight: 1}}]")
    with pytest.raises(ArgumentError, match="weight has no value"):
        parameters(recipe, Q.format(0))


def ties(lines: str) -> str:
    return f"merge_method: ties\nbase_model: x\n{lines}\n"


def slices(*ranges: str, extra: str = "") -> str:
    body = "".join(
        f"- {{sources: [{{model: a, layer_range: {r}}}, {{model: b, layer_range: {r}}}]{extra}}}\n" for r in ranges
    )
    return f"merge_method: linear\nslices:\n{body}"


REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    "passthrough": (f"merge_method: passthrough\n{PAIR}", ("'passthrough' is not supported", "linear")),
    "della": (f"merge_method: della\n{PAIR}", ("'della' is not supported",)),
    "karcher": (f"merge_method: karcher\n{PAIR}", ("'karcher' is not supported",)),
    "method_that_is_no_text": (f"merge_method: [ties]\n{PAIR}", ("['ties'] is not supported",)),
    "tokenizer": (ties(f"{PAIR}tokenizer: {{source: union}}"), ("tokenizer: tokenizer surgery",)),
    "chat_template": (ties(f"{PAIR}chat_template: auto"), ("chat_template: chat templates",)),
    "modules": (ties("modules: {text: {models: []}}"), ("modules: per-module",)),
    "moe": (ties(f"{PAIR}experts: []"), ("experts: the key is unknown",)),
    "union": (ties(f"{PAIR}tokenizer_source: union"), ("tokenizer_source 'union' is not supported",)),
    "tokenizer_of_a_stranger": (ties(f"{PAIR}tokenizer_source: org/other"), ("'org/other' is not supported",)),
    "tokenizer_of_no_base": (f"merge_method: linear\n{PAIR}tokenizer_source: base", ("there is no base_model",)),
    "neither": (ties(""), ("needs either models or slices",)),
    "both": (ties(f"{PAIR}slices: [{{sources: []}}]"), ("needs either models or slices",)),
    "models_as_text": (ties("models: a"), ("models: is not a list",)),
    "slices_as_text": (ties("slices: a"), ("slices: is not a list",)),
    "sources_missing": (ties("slices: [{parameters: {}}]"), ("sources: is not a list",)),
    "no_base": (f"merge_method: ties\n{PAIR}", ("ties needs a base",)),
    "base_alone": (ties("models: [{model: x}]"), ("not name a model besides the base_model",)),
    "twice": (ties("models: [{model: a}, {model: a}]"), ("a is named twice",)),
    "model_missing": (ties("models: [{parameters: {weight: 1}}]"), ("None is not a model",)),
    "model_that_is_a_number": (ties("models: [{model: 3}]"), ("3 is not a model",)),
    "override_architecture": (
        ties("models: [{model: {model: a, override_architecture: B}}]"), ("override_architecture is not supported",),
    ),
    "layer_range_of_models": (ties("models: [{model: a, layer_range: [0, 2]}]"), ("models: layer_range",)),
    "slerp_of_three": (
        "merge_method: slerp\nbase_model: x\nmodels: [{model: a}, {model: b}]", ("slerp takes a base_model and one",),
    ),
    "slerp_without_base": ("merge_method: slerp\nmodels: [{model: a}, {model: b}]", ("slerp takes a base_model",)),
    "slerp_without_t": ("merge_method: slerp\nbase_model: x\nmodels: [{model: a}]", ("slerp needs lam",)),
    "rescale_of_ties": (ties(f"{PAIR}parameters: {{rescale: true}}"), ("rescale: True is not supported for ties",)),
    "rescale_of_dare": (
        f"merge_method: dare_ties\nbase_model: x\n{PAIR}parameters: {{rescale: false}}", ("rescale: False is not",),
    ),
    "filter_wise": (
        f"merge_method: model_stock\nbase_model: x\n{PAIR.replace('weight: 1', '')}parameters: {{filter_wise: true}}",
        ("filter_wise: True is not supported for model_stock",),
    ),
    "gamma": (ties(f"{PAIR}parameters: {{gamma: 0.1}}"), ("gamma is not supported for ties",)),
    "density_of_linear": (f"merge_method: linear\n{PAIR}parameters: {{density: 1}}", ("density is not supported for",)),
    "lambda_of_one_model": (
        ties("models: [{model: a, parameters: {lambda: 1}}]"), ("a: of the parameters of ties, only weight",),
    ),
    "parameters_as_list": (ties(f"{PAIR}parameters: [1]"), ("is not a mapping of parameters",)),
    "weight_text": (ties("models: [{model: a, parameters: {weight: much}}]"), ("weight: 'much' is not a number",)),
    "weight_inf": (ties("models: [{model: a, parameters: {weight: .inf}}]"), ("weight: inf is not finite",)),
    "normalize_text": (ties(f"{PAIR}parameters: {{normalize: 2}}"), ("normalize: 2 is not true or false",)),
    "dtype_list": (ties(f"{PAIR}dtype: [a]"), ("dtype ['a'] is not text",)),
    "stacking": (slices("[0, 3]", "[2, 5]"), ("starts at layer 2, and 3 is next", "Passthrough stacking")),
    "gap": (slices("[0, 2]", "[3, 5]"), ("starts at layer 3, and 2 is next",)),
    "late_start": (slices("[1, 2]"), ("starts at layer 1, and 0 is next",)),
    "empty_range": (slices("[2, 2]"), ("layer_range [2, 2] is not [START, END]",)),
    "negative_range": (slices("[-2, 2]"), ("layer_range [-2, 2] is not",)),
    "range_of_fractions": (slices("[0, 2.5]"), ("layer_range [0, 2.5] is not",)),
    "no_range": ("merge_method: linear\nslices: [{sources: [{model: a}, {model: b}]}]", ("layer_range None is not",)),
    "different_layers": (
        "merge_method: linear\nslices:\n- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [2, 4]}]",
        ("takes different layers from its models", "Passthrough stacking"),
    ),
    "different_depths": (
        "merge_method: linear\nslices:\n- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]",
        ("takes different layers from its models: (0, 2), (0, 3)",),
    ),
    "slice_without_a_model": (
        slices("[0, 2]") + "- {sources: [{model: a, layer_range: [2, 4]}]}", ("a slice leaves out b",),
    ),
    "residual_weight": (slices("[0, 2]", extra=", residual_weight: 0.1"), ("residual_weight is not supported",)),
    "base_of_a_slice": (slices("[0, 2]", extra=", base_model: a"), ("base_model is not supported",)),
    "base_of_linear_in_no_slice": ("base_model: x\n" + slices("[0, 2]"), ("base_model x is in no slice",)),
    "key_of_a_source": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 2], scale: 3}]}]",
        ("sources: scale is not supported",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    text, words = REFUSED[case]
    with pytest.raises(ArgumentError) as error:
        read(text)
    assert len(str(error.value).splitlines()) == 2
    assert error.value.problem.startswith("c.yml: ")
    for word in words:
        assert word in str(error.value)


def test_a_configuration_from_its_file(tmp_path: Path) -> None:
    """Slerp of collinear models is lerp; the file is read as it is, and its directory plays no part."""
    a = tiny(1)
    a = {name: t.float().nan_to_num(0, 0, 0).clamp(-1e3, 1e3).bfloat16() for name, t in a.items()}
    b = {name: 2 * t for name, t in a.items()}
    save(tmp_path / "a", a)
    save(tmp_path / "b", b)
    config = tmp_path / "config.yml"
    config.write_text(f"""
merge_method: slerp
base_model: {tmp_path / "a"}
models:
- model: {tmp_path / "b"}
- model: {tmp_path / "a"}
parameters: {{t: 0.25}}
dtype: bfloat16
""")
    assert isinstance(load(config), MergeRecipe)
    merge_checkpoint(config, tmp_path / "out", progress=False)
    assert_same_tensors(tensors_of(tmp_path / "out"), merge_reference(a, b, 0.25))


def test_an_adapter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", tiny(1))
    config = tmp_path / "config.yml"
    models = f"models: [{{model: {tmp_path}/a+{tmp_path}/no}}, {{model: {tmp_path}/a}}]"
    config.write_text(f"merge_method: linear\n{models}\nparameters: {{weight: 1}}")
    before = snapshot(tmp_path)
    with pytest.raises(MIKernelsError, match=r"\+") as error:
        merge_checkpoint(config, tmp_path / "out", progress=False)
    assert len(str(error.value).splitlines()) == 2
    assert snapshot(tmp_path) == before
