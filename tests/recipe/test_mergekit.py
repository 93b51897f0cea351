"""mergekit's configurations: what they mean, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mi_kernels import ArgumentError, MIKernelsError, merge_checkpoint
from mi_kernels.checkpoint.names import classify
from mi_kernels.methods.method import Method
from mi_kernels.methods.registry import METHODS
from mi_kernels.recipe.load import load
from mi_kernels.recipe.models import MergeRecipe, Spelling

from ..support.checks import snapshot
from ..support.mergekit_files import PAIR, read
from ..support.models import assert_same_tensors, merge_reference, save, tiny
from ..support.models import load as tensors_of

Q = "model.layers.{}.self_attn.q_proj.weight"
UP = "model.layers.{}.mlp.up_proj.weight"


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


def test_a_slice_may_repeat_the_base_model() -> None:
    for base in ("a", "{model: a}"):
        text = slices("[0, 2]", extra=", parameters: {weight: 1}, base_model: " + base)
        assert read(f"base_model: a\n{text}") == read("base_model: a\n" + slices("[0, 2]", extra=WEIGHTED))
    with pytest.raises(ArgumentError, match="slices: base_model is not supported"):
        read("base_model: b\n" + text)


WEIGHTED = ", parameters: {weight: 1}"


def test_slices_must_end_where_the_models_do() -> None:
    with pytest.raises(ArgumentError, match="end at layer 4, and the models have 6 layers"):
        parameters(read(SLICES), Q.format(0), 6)


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
    weight = "parameters: {weight: 1}"
    assert read(f"merge_method: linear\nmodels: [{{model: a}}, {{model: {given}}}]\n{weight}").models == (
        "a",
        reference,
    )


@pytest.mark.parametrize(
    ("source", "copy_from"),
    [
        (None, "base"), ("base", "base"), ("x", "base"), ("a", "instruct"), ("b", "thinking"),
        ("{model: b}", "thinking"), ("union", "base"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("line", ["tokenizer_source: {}", "tokenizer: {{source: {}}}"])
def test_tokenizer_source(source: str | None, copy_from: str, line: str) -> None:
    line = line.format(source) if source else ""
    assert read(f"merge_method: ties\nbase_model: x\n{PAIR}{line}").copy_from == copy_from


@pytest.mark.parametrize("base", ["", "base_model: x\n"])
@pytest.mark.parametrize(("source", "copy_from"), [("a", "instruct"), ("b", "2"), ("c", "3"), ("d", "thinking")])
def test_tokenizer_source_in_the_middle(base: str, source: str, copy_from: str) -> None:
    models = ", ".join(f"{{model: {m}, parameters: {{weight: 1}}}}" for m in "abcd")
    method = "ties" if base else "linear"
    text = f"merge_method: {method}\n{base}models: [{models}]\ntokenizer_source: {source}"
    assert read(text).copy_from == copy_from


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
    weight = "" if method == "model_stock" else "parameters: {weight: 1}"
    models = f"[{{model: a, {weight}}}, {{model: b, {weight}}}]"
    text = f"merge_method: {method}\nbase_model: x\nmodels: {models}\nparameters: {line}"
    assert read(text).settings == {}


@pytest.mark.parametrize("value", ["false", "[false, false]", "[{filter: mlp, value: false}, {value: [false]}]", "0"])
def test_the_only_value_may_be_a_gradient_or_conditional(value: str) -> None:
    assert read(f"merge_method: ties\nbase_model: x\n{PAIR}parameters: {{rescale: {value}}}").settings == {}


def test_a_weight_has_no_default() -> None:
    with pytest.raises(ArgumentError, match=r"^c\.yml: a: weight is missing, which linear needs\nAdd `parameters"):
        read("merge_method: linear\nmodels: [{model: a}, {model: b, parameters: {weight: 1}}]")
    recipe = read(
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [{filter: m, value: 1}]}"
    )
    with pytest.raises(ArgumentError, match="weight has no value"):
        parameters(recipe, "x")


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
    "tokenizer_as_text": (ties(f"{PAIR}tokenizer: base"), ("tokenizer 'base' is not a mapping", "{source: base}")),
    "tokenizer_twice": (
        ties(f"{PAIR}tokenizer: {{source: base}}\ntokenizer_source: base"), ("has both tokenizer_source and",),
    ),
    "tokenizer_misspelt": (
        ties(f"{PAIR}tokenizer: {{sauce: base}}"), ("tokenizer: the key 'sauce' is unknown", "Did you mean source?"),
    ),
    "tokenizer_of_a_stranger_in_a_block": (
        ties(f"{PAIR}tokenizer: {{source: org/other}}"), ("'org/other' is not supported", "Name one of the models"),
    ),
    "tokens_forced": (
        ties(f"{PAIR}tokenizer: {{tokens: {{<s>: {{source: a, force: true}}}}}}"), ("tokens: '<s>': force replaces",),
    ),
    "tokens_as_list": (ties(f"{PAIR}tokenizer: {{tokens: [<s>]}}"), ("tokens is not a mapping",)),
    "token_as_text": (ties(f"{PAIR}tokenizer: {{tokens: {{<s>: a}}}}"), ("'<s>' is not a token with a mapping",)),
    "padding_of_less": (ties(f"{PAIR}tokenizer: {{pad_to_multiple_of: -8}}"), ("pad_to_multiple_of is -8",)),
    "padding_as_text": (ties(f"{PAIR}tokenizer: {{pad_to_multiple_of: all}}"), ("pad_to_multiple_of is 'all'",)),
    "template_misspelt": (
        ties(f"{PAIR}chat_template: chatlm"), ("chat_template 'chatlm' is neither", "Did you mean chatml?"),
    ),
    "template_of_nobody": (ties(f"{PAIR}chat_template: vicuna"), ("'vicuna' is neither", "auto, alpaca, chatml")),
    "template_as_list": (ties(f"{PAIR}chat_template: [auto]"), ("chat_template ['auto'] is not text",)),
    "modules": (ties("modules: {text: {models: []}}"), ("modules: per-module",)),
    "moe": (ties(f"{PAIR}experts: []"), ("experts: the key is unknown",)),
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
    "model_missing": (ties("models: [{parameters: {weight: 1}}]"), ("does not name a model",)),
    "misspelt_model": (ties("models: [{modle: a}, {model: b}]"), ("not name a model", "Did you mean `model:`")),
    "misspelt_key_of_an_entry": (
        ties("models: [{model: a, paramters: {weight: 1}}]"), ("paramters is not supported", "mean parameters?"),
    ),
    "misspelt_layer_range": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_rnage: [0, 2]}]}]", ("Did you mean layer_range?",),
    ),
    "misspelt_sources": (
        "merge_method: linear\nslices: [{sources: [{model: a}], paramters: {}}]", ("Did you mean parameters?",),
    ),
    "model_that_is_a_number": (ties("models: [{model: 3}]"), ("3 is not a model",)),
    "override_architecture": (
        ties("models: [{model: {model: a, override_architecture: B}}]"), ("override_architecture is not supported",),
    ),
    "layer_range_of_models": (ties("models: [{model: a, layer_range: [0, 2]}]"), ("models: layer_range",)),
    "slerp_of_three": (
        "merge_method: slerp\nbase_model: x\nmodels: [{model: a}, {model: b}]", ("slerp takes a base_model and one",),
    ),
    "slerp_without_base": ("merge_method: slerp\nmodels: [{model: a}, {model: b}]", ("slerp takes a base_model",)),
    "slerp_without_t": (
        "merge_method: slerp\nbase_model: x\nmodels: [{model: a}]", ("slerp needs lam", "Add `t` to the parameters"),
    ),
    "slerp_with_t_where_it_has_no_effect": (
        "merge_method: slerp\nbase_model: x\nmodels: [{model: a, parameters: {t: 1}}]", ("slerp needs lam", "Add `t`"),
    ),
    "rescale_of_ties": (ties(f"{PAIR}parameters: {{rescale: true}}"), ("rescale: True is not supported for ties",)),
    "rescale_of_dare": (
        f"merge_method: dare_ties\nbase_model: x\n{PAIR}parameters: {{rescale: false}}", ("rescale: False is not",),
    ),
    "filter_wise": (
        f"merge_method: model_stock\nbase_model: x\n{PAIR.replace('weight: 1', '')}parameters: {{filter_wise: true}}",
        ("filter_wise: True is not supported for model_stock",),
    ),
    "row_wise": (
        f"merge_method: nuslerp\n{PAIR}parameters: {{nuslerp_flatten: [true, false]}}",
        ("nuslerp_flatten is not supported",),
    ),
    "a_key_of_ours": (ties(f"{PAIR}base: y"), ("base: is a key of mi_kernels recipes", "Did you mean base_model?")),
    "a_parameter_of_ours": (
        "merge_method: slerp\nbase_model: x\nmodels: [{model: a}]\nparameters: {lam: 1}",
        ("no parameter 'lam'", "Did you mean t? slerp uses t."),
    ),
    "a_parameter_beside_its_mapping": (
        ties("models: [{model: a, weight: 1}]"), ("models: weight is not supported", "Move it to the model's `param"),
    ),
    "a_parameter_that_is_no_text": (ties(f"{PAIR}parameters: {{1: 1}}"), ("mergekit has no parameter 1",)),
    "a_key_that_is_no_text": (ties(f"{PAIR}1: 1"), ("1: the key is unknown",)),
    "a_key_that_is_no_word": (ties(f'{PAIR}"a b": 1'), ("a b: the key is unknown",)),
    "parameters_as_list": (ties(f"{PAIR}parameters: [1]"), ("is not a mapping of parameters",)),
    "weight_text": (ties("models: [{model: a, parameters: {weight: much}}]"), ("a: weight is 'much', which is not",)),
    "weight_inf": (ties("models: [{model: a, parameters: {weight: .inf}}]"), ("a: weight is inf, which is not",)),
    "normalize_text": (ties(f"{PAIR}parameters: {{normalize: 2}}"), ("normalize is 2, which is not true or false",)),
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


# Messages use mergekit's words, so that a remedy can be followed to the letter.


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.mergekit is not None and m.base == "required"])
def test_a_missing_base_is_called_base_model(method: Method) -> None:
    assert method.mergekit is not None
    name = method.mergekit.name
    with pytest.raises(ArgumentError, match=rf"^c.yml: {name} needs a base_model\nAdd `base_model: "):
        read(f"merge_method: {name}\nmodels: [{{model: A}}, {{model: B}}]\nparameters: {{density: 0.5, weight: 1}}")


def test_parameters_have_the_names_of_the_file() -> None:
    recipe = read("""
merge_method: slerp
base_model: A
models: [{model: A}, {model: B}]
parameters: {t: [{filter: mlp, value: 0.5}]}
""")
    with pytest.raises(ArgumentError, match=rf"^c.yml: {Q.format(0)}: t has no value\nGive t a value"):
        parameters(recipe, Q.format(0))
    with pytest.raises(
        ArgumentError, match=r"^c.yml: parameters: t is 7, which slerp cannot use\nGive a t from 0 to 1"
    ):
        read("merge_method: slerp\nbase_model: A\nmodels: [{model: A}, {model: B}]\nparameters: {t: 7}")
    assert read(SCALED).spelling == Spelling(
        "c.yml", {p: p for p in ("weight", "density", "normalize")} | {"scale": "lambda"}
    )


SCALED = """
merge_method: ties
base_model: A
models: [{model: B}, {model: C}]
parameters: {weight: 1, density: 0.5, lambda: 2}
"""


def test_several_configurations_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "two.yml"
    path.write_text(f"{SCALED}---{SCALED}")
    with pytest.raises(ArgumentError, match=r"two\.yml: holds several configurations"):
        load(path)


MI_LERP = """
merge_method: mi_lerp
models: [{model: I}, {model: T}]
parameters: {lam: [{filter: mlp, value: [0.2, 0.8]}, {value: 0.5}]}
"""


def test_the_method_of_our_plugin() -> None:
    recipe = read(MI_LERP)
    assert (recipe.method, recipe.models, recipe.base, recipe.copy_from) == ("mi_lerp", ("I", "T"), None, "instruct")
    assert parameters(recipe, Q.format(0)) == {"lam": 0.5}
    assert parameters(recipe, "model.layers.3.mlp.up_proj.weight") == {"lam": 0.8}
    for listed in ("[{model: I}, {model: T}]", "[{model: T}, {model: I}]", "[{model: T}]"):  # lam 0 is the base_model
        based = read(f"merge_method: mi_lerp\nbase_model: I\nmodels: {listed}\nparameters: {{lam: 0.5}}")
        assert (based.models, based.base) == (("I", "T"), None)
    with pytest.raises(ArgumentError, match="lam is 2, which mi_lerp cannot use"):
        read(MI_LERP.replace("0.5", "2"))
    with pytest.raises(ArgumentError, match="mi_lerp takes 2 models, and 3 are given"):
        read(MI_LERP.replace("{model: T}", "{model: T}, {model: U}"))


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [0.2, 0.8]}", 1),
        ("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [0.2, 0.5, 0.8]}", 0),
        ("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.2}", 0),
        ("merge_method: linear\nmodels: [{model: a, parameters: {weight: [0.2, 0.8]}}, {model: b, "
         "parameters: {weight: 1}}]", 0),
    ],
)  # fmt: skip
def test_one_weight_for_each_model_is_read_as_a_gradient_with_a_note(text: str, notes: int) -> None:
    found = read(text).notes
    assert len(found) == notes
    for note in found:
        assert "weight [0.2, 0.8] is a gradient over the layers" in note
        assert "one weight per model is written with the model" in note


MISTAKEN: dict[str, tuple[str, str]] = {
    "mixture": (
        "base_model: x\ngate_mode: hidden\nexperts: [{source_model: a}]",
        r"is a configuration of mergekit-moe \(experts, gate_mode\).*\nRun it with mergekit-moe",
    ),
    "mixture_without_base": ("experts: [{source_model: a}]", "configuration of mergekit-moe"),
    "misspelt_method_key": (
        "merge_methd: ties\nmodels: []",
        r"'merge_methd' is unknown\)\nDid you mean merge_method\?",
    ),
    "no_method": ("base_model: x\nmodels: [{model: a}]", "merge_method is missing\nAdd `merge_method:` with one of"),
    "two_tools": ("method: ties\nbase_model: x\nmodels: [a]", "has method.* and base_model, as mergekit's"),
    "misspelt_method": ("merge_method: tise\nmodels: []", r"'tise' is not supported\nDid you mean ties\?"),
    "documents": (
        "merge_method: ties\n---\nmerge_method: linear",
        "several configurations.*\nWrite each one to a file",
    ),
    "ours_without_method": ("models: [a, b]\nlam: 0.5", "method is missing\nAdd `method:` with one of lerp"),
}


@pytest.mark.parametrize("case", MISTAKEN)
def test_each_mistake_has_its_own_message(tmp_path: Path, case: str) -> None:
    text, message = MISTAKEN[case]
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(ArgumentError, match=message):
        load(tmp_path / "c.yml")
