"""Attacks in YAML recipes and mergekit configurations: code, endless expansion, invalid content."""

from __future__ import annotations

import json
from typing import Any

from .case import Family, Scene

FAMILY = Family("recipe")
BIG = "0x" + "f" * 5000


def _recipe(scene: Scene, text: str) -> None:
    values = {"a": str(scene.a), "b": str(scene.b), "marker": str(scene.marker), "secret": str(scene.secret)}
    for key, value in values.items():
        text = text.replace(f"<{key}>", value)
    scene.recipe.write_text(text)


def bomb(levels: int, width: int) -> str:
    lines = ["l0: &l0 [1]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


_LERP = "method: lerp\nmodels: [<a>, <b>]\n"
_TIES = "method: ties\nbase: <a>\nmodels: [<b>]\n"
_LINEAR = (
    "merge_method: linear\nmodels:\n- {model: <a>, parameters: {weight: 1}}\n- {model: <b>, parameters: {weight: 1}}\n"
)
YAML = {
    "apply": "!!python/object/apply:os.mkdir ['<marker>']",
    "new": "!!python/object/new:os.mkdir ['<marker>']",
    "apply_within": "method: !!python/object/apply:os.mkdir ['<marker>']\nmodels: [<a>, <b>]",
    "name": "method: !!python/name:os.mkdir\nmodels: [<a>, <b>]",
    "module": "!!python/module:os",
    "tuple": "!!python/tuple [1]",
    "include": "!include <secret>",
    "binary": "method: !!binary aGVsbG8=",
    "bad_int": "method: lerp\nlam: !!int ''",
    "bad_float": "method: lerp\nlam: !!float x",
    "bad_bool": "extrapolate: !!bool maybe",
    "bad_timestamp": "method: !!timestamp never",
    "bad_date": "method: 2001-99-99",
    "bad_binary": "method: !!binary '\u20ac'",
    "map_of_a_list": "!!map [a, b]",
    "map_of_a_scalar": "!!map x",
    "list_of_a_map": "models: !!seq {a: 1}",
    "set_of_a_list": "models: !!set [a]",
    "ordered_map": "models: !!omap {a: 1}",
    "pairs": "models: !!pairs x",
    "key_a_list": "? [a]\n: 1",
    "key_a_map": "{{a: 1}: 2}",
    "key_null": "~: 1",
    "key_a_date": "2001-01-01: 1",
    "key_of_mixed_kinds": _LERP + "lam: 0.5\n1: 2\n~: 3",
    "key_twice": _LERP + "lam: 0.5\nlam: 0.6",
    "merge_key_a_scalar": "<<: 1",
    "merge_key_itself": "a: &a\n  <<: *a",
    "bomb_wide": bomb(9, 10),
    "bomb_long": bomb(60, 2),
    "anchor_within_itself": "&a [*a]",
    "anchor_within_a_key": "&a {*a : 1}",
    "nested": "[" * 100_000,
    "nested_braces": "{a: " * 50_000,
    "nested_by_lines": "\n".join("- " * 200 for _ in range(50)),
    "number_too_long": _LERP + f"lam: {BIG}",
    "seed_too_long": f"method: dare_ties\nbase: <a>\nmodels: [<b>]\ndensity: 0.5\nseed: {BIG}",
    "decimal_too_long": _LERP + "lam: " + "9" * 100_000,
    "two_documents": _LERP + "lam: 0.5\n---\n" + _LERP + "lam: 0.1",
    "directive": "%YAML 9.9\n---\na: 1",
    "control_characters": "a: \x01\x1b[2J",
    "nul": "a: \0",
    "utf16_bom_alone": "\ufeff",
    "text": "hello",
    "empty": "",
    "a_list": "- 1",
}
for _name, _text in YAML.items():
    FAMILY.add(f"yaml_{_name}", lambda s, t=_text: _recipe(s, t), "recipe.yml", command="merge")
FAMILY.add("yaml_not_utf8", lambda s: s.recipe.write_bytes(b"method: \xff\xfe"), "recipe.yml", command="merge")
FAMILY.add(
    "yaml_of_1_mb",
    lambda s: _recipe(s, _LERP + f"lam: [{', '.join(['0.5'] * 200_000)}]"),
    "recipe.yml",
    command="merge",
)
FAMILY.add("good", lambda s: _recipe(s, _LERP + "lam: 0.5"), harmless=True, command="merge", ours=True)

OURS = {
    "lam_nan": _LERP + "lam: .nan",
    "lam_infinite": _LERP + "lam: .inf",
    "lam_1e309": _LERP + "lam: 1e309",
    "lam_a_map": _LERP + "lam: {a: 1}",
    "lam_a_nested_list": _LERP + "lam: [[0.5]]",
    "lam_null": _LERP + "lam: ~",
    "lam_a_date": _LERP + "lam: 2001-01-01",
    "layers_beyond": _LERP + "lam: 0.5\nlayers: 0:999999999",
    "layers_of_many_digits": _LERP + f"lam: 0.5\nlayers: '{'9' * 5000}:'",
    "layers_a_map": _LERP + "lam: 0.5\nlayers: {a: 1}",
    "layers_nested": _LERP + "lam: 0.5\nlayers: [[[0]]]",
    "layers_a_huge_number": _LERP + f"lam: 0.5\nlayers: {10**40}",
    "modules_hostile": _LERP + 'lam: 0.5\nmodules: "\\e[2J\\nok"',
    "modules_a_map": _LERP + "lam: 0.5\nmodules: {1: 2}",
    "method_a_list": "method: [lerp]\nmodels: [<a>, <b>]\nlam: 0.5",
    "method_a_map": "method: {lerp: 1}\nmodels: [<a>, <b>]\nlam: 0.5",
    "models_of_models": "method: lerp\nmodels: [[<a>], [<b>]]\nlam: 0.5",
    "models_null": "method: lerp\nmodels: [~, ~]\nlam: 0.5",
    "model_nul": 'method: lerp\nmodels: ["a\\0b", <b>]\nlam: 0.5',
    "model_a_surrogate": 'method: lerp\nmodels: ["\\ud800", <b>]\nlam: 0.5',
    "model_1_mb_long": f"method: lerp\nmodels: [{'x' * 100_000}, <b>]\nlam: 0.5",
    "model_a_file": "method: lerp\nmodels: [<secret>, <b>]\nlam: 0.5",
    "pattern_broken": _LERP + "lam: 0.5\nrules: [{pattern: '(', lam: 0}]",
    "pattern_exponential": _LERP + r"lam: 0.5" + "\n" + r"rules: [{pattern: '((\w|\.|.)*)*!', lam: 0}]",
    "pattern_polynomial": _LERP + "lam: 0.5\nrules: [{pattern: '" + ".*" * 30 + "!', lam: 0}]",
    "pattern_nested": _LERP + "lam: 0.5\nrules: [{pattern: '" + "(" * 20_000 + "', lam: 0}]",
    "pattern_100_kb_long": _LERP + "lam: 0.5\nrules: [{pattern: '" + "ab" * 50_000 + "', lam: 0}]",
    "rules_a_map": _LERP + "lam: 0.5\nrules: {a: 1}",
    "key_unknown": _LERP + 'lam: 0.5\n"\\e[2J\\nok": 1',
    "key_100_kb_long": _LERP + f"lam: 0.5\n? {'k' * 100_000}\n: 1",
    "density_negative": _TIES.replace("ties", "dare_ties") + "density: -1",
    "density_nan": _TIES + "density: .nan",
    "weight_1e39": _TIES + "weight: 1e39",
    "weight_without_a_value": _TIES + "weight: [{filter: nothing}]",
    "normalize_text": _TIES + "normalize: perhaps",
    "seed_a_float": _TIES.replace("ties", "dare_ties") + "density: 0.5\nseed: 1.5",
    "sixty_models": "method: average\nmodels: [" + ", ".join(["<a>"] * 60) + "]",
    "dtype_hostile": _LERP + 'lam: 0.5\ndtype: "\\e[2J"',
    "dtype_a_list": _LERP + "lam: 0.5\ndtype: [bf16]",
    "copy_from_a_path": _LERP + "lam: 0.5\ncopy_from: ../../secret",
    "base_a_list": "method: ties\nbase: [<a>]\nmodels: [<b>]",
}
for _name, _text in OURS.items():
    FAMILY.add(_name, lambda s, t=_text: _recipe(s, t), command="merge", ours=True)


def _mergekit(scene: Scene, **changes: Any) -> None:
    content = json.loads(scene.recipe.read_text())
    scene.recipe.write_text(json.dumps({**content, **changes}))


MERGEKIT: dict[str, dict[str, Any]] = {
    "method_a_list": {"merge_method": ["linear"]},
    "method_a_path": {"merge_method": "../../secret"},
    "method_null": {"merge_method": None},
    "models_a_map": {"models": {"model": "x"}},
    "models_nested": {"models": [[{"model": "x"}]]},
    "model_of_models": {"models": [{"model": {"model": {"model": {"model": 1}}}}]},
    "base_a_list": {"base_model": [1]},
    "slices_and_models": {"slices": [{}]},
    "slices_a_number": {"models": None, "slices": 5},
    "range_negative": {"models": None, "slices": [{"sources": [{"model": "x", "layer_range": [-1, 2]}]}]},
    "range_huge": {"models": None, "slices": [{"sources": [{"model": "x", "layer_range": [0, 10**40]}]}]},
    "parameters_a_list": {"parameters": [1]},
    "parameter_nan": {"parameters": {"normalize": float("nan")}},
    "tokenizer_a_path": {"tokenizer_source": "../../secret"},
    "tokenizer_an_object": {"tokenizer": {"source": "union"}},
    "tokenizer_a_list": {"tokenizer": ["union"]},
    "tokenizer_source_a_number": {"tokenizer": {"source": 1}},
    "tokens_hostile": {"tokenizer": {"source": "union", "tokens": {"\x1b[2J": {"force": True}}}},
    "tokens_a_list": {"tokenizer": {"tokens": [{}]}},
    "padding_huge": {"tokenizer": {"pad_to_multiple_of": 10**40}},
    "padding_negative": {"tokenizer": {"pad_to_multiple_of": -1}},
    "dtype_a_list": {"dtype": ["bfloat16"]},
    "dtype_code": {"dtype": "__import__('os')"},
    "chat_template_a_path": {"chat_template": "../../secret/secret.txt"},
    "chat_template_of_200_kb": {"chat_template": "{{ x }}" * 30_000},
    "chat_template_hostile": {"chat_template": "\x1b[2J{{ a template }}"},
    "parameter_hostile": {"parameters": {"\x1b[2J": 1}},
    "unknown_key": {"\x1b[2J": 1},
}
for _name, _changes in MERGEKIT.items():
    FAMILY.add(f"mergekit_{_name}", lambda s, c=_changes: _mergekit(s, **c), command="merge")
FAMILY.add("mergekit_good", lambda s: None, harmless=True, command="merge")
FAMILY.add("mergekit_absolute_paths", lambda s: _recipe(s, _LINEAR), harmless=True, command="merge")
