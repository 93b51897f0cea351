"""Attacks in the other JSON files of a model: config.json, FP8 scales, adapters, and mi_kernels.json."""

from __future__ import annotations

import json
from typing import Any

from .case import CONFIG, MODEL, SINGLE, Family, Scene, shard

FAMILY = Family("config")
UP = "model.layers.0.mlp.up_proj.weight"


def nested(depth: int) -> str:
    return '{"a": ' * depth + "1" + "}" * depth


def _config(scene: Scene, text: str) -> None:
    (scene.b / "config.json").write_text(text)


_BROKEN = {
    "deep": nested(100_000),
    "depth_of_900": nested(900),
    "list": "[]",
    "text": '"config"',
    "empty": "",
    "number_of_5000_digits": '{"n": ' + "9" * 5000 + "}",
    "cut": '{"architectures": [',
}
for _name, _text in _BROKEN.items():
    FAMILY.add(f"config_{_name}", lambda s, text=_text: _config(s, text), "config.json")

# If the head is untied or a quantisation is removed, config.json is parsed, copied and written again.
for _depth in (400, 600, 800):
    FAMILY.add(
        f"config_depth_of_{_depth}_rewritten",
        lambda s, depth=_depth: _config(s, f'{{"quantization_config": null, "a": {nested(depth)}}}'),
        "config.json",
    )

_ODD: dict[str, Any] = {
    "architectures": [["\x1b[2J"]],
    "tie_word_embeddings": {"a": []},
    "text_config": [1],
    "num_hidden_layers": -(10**30),
    "auto_map": {"AutoModel": "../../secret/secret.txt--x.y"},
    "vocab_size": "\ud800",
}
for _name, _value in _ODD.items():
    FAMILY.add(
        f"config_odd_{_name}", lambda s, k=_name, v=_value: _config(s, json.dumps({**CONFIG, k: v})), harmless=True
    )

_QUANTISED: dict[str, Any] = {
    "text": "x\x1b[2J",
    "list": [1],
    "method_a_list": {"quant_method": ["fp8"]},
    "method_1_mb_long": {"quant_method": "x" * 1_000_000},
    "format_an_object": {"quant_method": "fp8", "fmt": {"a": 1}},
    "scheme_a_number": {"quant_method": "fp8", "activation_scheme": 1},
}
for _name, _value in _QUANTISED.items():
    FAMILY.add(
        f"quantization_{_name}",
        lambda s, v=_value: _config(s, json.dumps({**CONFIG, "quantization_config": v})),
        "quantised",
    )


def _fp8(scene: Scene, block: object, scales: tuple[str, tuple[int, ...]], weight: tuple[int, ...] = (6, 4)) -> None:
    tensors = {**MODEL, UP: ("F8_E4M3", weight), UP + "_scale_inv": scales}
    scene.weights(scene.b, shard(tensors))
    config = {**CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": block}}
    _config(scene, json.dumps(config))


_FP8_BAD: dict[str, tuple[object, tuple[str, tuple[int, ...]]]] = {
    "block_of_0": ([0, 0], ("F32", (6, 4))),
    "block_negative": ([-1, 2], ("F32", (6, 2))),
    "block_float": ([2.0, 2.0], ("F32", (3, 2))),
    "block_true": ([True, True], ("F32", (6, 4))),
    "block_text": ("22", ("F32", (3, 2))),
    "block_nested": ([[2], [2]], ("F32", (3, 2))),
    "block_a_number": (2, ("F32", (3, 2))),
    "block_of_three": ([2, 2, 2], ("F32", (3, 2))),
    "block_missing": (None, ("F32", (3, 2))),
    "scales_too_few": ([2, 2], ("F32", (3, 1))),
    "scales_too_many": ([2, 2], ("F32", (4, 4))),
    "scales_transposed": ([2, 2], ("F32", (2, 3))),
    "scales_flat": ([2, 2], ("F32", (6,))),
    "scales_none": ([2, 2], ("F32", (0,))),
    "scales_integers": ([2, 2], ("I64", (3, 2))),
    "scales_fp8": ([2, 2], ("F8_E4M3", (3, 2))),
}
for _name, (_block, _scales) in _FP8_BAD.items():
    FAMILY.add(f"fp8_{_name}", lambda s, b=_block, c=_scales: _fp8(s, b, c), SINGLE, UP + "_scale_inv")
FAMILY.add("fp8_good", lambda s: _fp8(s, [2, 2], ("F32", (3, 2))), harmless=True)
FAMILY.add("fp8_block_of_2_to_the_100", lambda s: _fp8(s, [1 << 100, 2], ("F32", (1, 2))), harmless=True)
FAMILY.add("fp8_block_that_wraps", lambda s: _fp8(s, [(1 << 64) - 2, 2], ("F32", (1, 2))), harmless=True)
FAMILY.add("fp8_block_of_nonsense_for_one_scale", lambda s: _fp8(s, 7, ("F32", ())), harmless=True)
FAMILY.add("fp8_weight_of_one_dimension", lambda s: _fp8(s, [2, 2], ("F32", (3,)), (6,)), UP + "_scale_inv")


def _adapter(scene: Scene, config: object = None, factors: dict[str, Any] | None = None, **others: Any) -> None:
    """Writes a LoRA of rank 2 on one weight of a. `others` are added to its config or replace it."""
    module = "base_model.model." + UP.removesuffix(".weight")
    good = {f"{module}.lora_A.weight": ("F32", (2, 4)), f"{module}.lora_B.weight": ("F32", (6, 2))}
    scene.adapter.mkdir()
    (scene.adapter / "adapter_model.safetensors").write_bytes(shard(good if factors is None else factors))
    content = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **others} if config is None else config
    text = content if isinstance(content, str) else json.dumps(content)
    (scene.adapter / "adapter_config.json").write_text(text)


_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SLOW = "(" * 12 + "a*" + ")*" * 12 + "b"
_ADAPTER_BAD: dict[str, dict[str, Any]] = {
    "rank_0": {"r": 0},
    "rank_negative": {"r": -2},
    "rank_float": {"r": 2.0},
    "rank_true": {"r": True},
    "rank_of_30_digits": {"r": 10**30},
    "alpha_nan": {"lora_alpha": float("nan")},
    "alpha_infinite": {"lora_alpha": float("inf")},
    "alpha_of_400_digits": {"lora_alpha": 10**400},
    "alpha_text": {"lora_alpha": "4"},
    "pattern_a_list": {"rank_pattern": [1]},
    "pattern_broken": {"rank_pattern": {"(": 1}},
    "pattern_nested": {"rank_pattern": {"(" * 10_000 + ")" * 10_000: 1}},
    "pattern_repeat_too_large": {"rank_pattern": {"a{99999999999999999999}": 1}},
    "pattern_exponential": {"rank_pattern": {r"(\w|\.|\w\w|.)*!": 1}},
    "pattern_exponential_alpha": {"alpha_pattern": {r"((model|layers|\w+|\.)+)+!": 1}},
    "pattern_polynomial": {"rank_pattern": {".*" * 30 + "!": 1}},
    "pattern_reference": {"rank_pattern": {r"(.+)(.+)(.+)(.+)\4\3\2\1": 1}},
    "method_other": {"peft_type": "IA3"},
    "method_a_list": {"peft_type": ["LORA"]},
    "bias_a_list": {"bias": [1]},
    "initialisation_a_list": {"init_lora_weights": [1]},
}
for _name, _others in _ADAPTER_BAD.items():
    FAMILY.add(f"adapter_{_name}", lambda s, o=_others: _adapter(s, **o), _CONFIG, command="adapter")
for _name, _text in {**_BROKEN, "null": "null"}.items():
    FAMILY.add(f"adapter_config_{_name}", lambda s, t=_text: _adapter(s, t), _CONFIG, command="adapter")


def _on(name: str, a: tuple[int, ...] = (2, 4), b: tuple[int, ...] = (6, 2)) -> dict[str, Any]:
    return {
        f"base_model.model.{name}.lora_A.weight": ("F32", a),
        f"base_model.model.{name}.lora_B.weight": ("F32", b),
    }


_UP = UP.removesuffix(".weight")
_FACTORS: dict[str, dict[str, Any]] = {
    "factors_of_another_rank": _on(_UP, (3, 4), (6, 3)),
    "factors_too_wide": _on(_UP, (2, 400), (6, 2)),
    "factors_flat": _on(_UP, (8,), (12,)),
    "factors_empty": _on(_UP, (0, 4), (6, 0)),
    "factors_none": {},
    "half_missing": {k: v for k, v in _on(_UP).items() if "lora_A" in k},
    "of_a_strange_module": _on("../../../etc/passwd"),
    "of_a_hostile_name": _on("\x1b[2J\nok"),
    "of_a_norm": _on("model.norm"),
    "integers": {k: ("I64", s) for k, (_, s) in _on(_UP).items()},
    "whole_of_another_shape": {**_on(_UP), "base_model.model.model.norm.weight": ("BF16", (5,))},
}
for _name, _tensors in _FACTORS.items():
    FAMILY.add(f"adapter_{_name}", lambda s, f=_tensors: _adapter(s, None, f), _WEIGHTS, command="adapter")
FAMILY.add("adapter_good", _adapter, harmless=True, command="adapter")
FAMILY.add(
    "adapter_patterns_as_published",
    lambda s: _adapter(s, rank_pattern={r"^model\.layers\.(0|1)\.mlp\.up_proj": 2, "q_proj": 8, r".*\.attn\.[kv]": 4}),
    harmless=True,
    command="adapter",
)
FAMILY.add(
    "adapter_names_a_hostile_base",
    lambda s: _adapter(s, base_model_name_or_path="\x1b[2J\nmi-kernels: ok " + "x" * 1_000_000),
    harmless=True,
    command="adapter",
)


@FAMILY.attack("pickle", command="adapter")
def adapter_pickled(scene: Scene) -> None:
    _adapter(scene)
    (scene.adapter / _WEIGHTS).rename(scene.adapter / "adapter_model.bin")


@FAMILY.attack(_WEIGHTS, command="adapter")
def adapter_is_no_safetensors(scene: Scene) -> None:
    _adapter(scene)
    (scene.adapter / _WEIGHTS).write_bytes(b"\xff" * 64)


_RECORDS: dict[str, Any] = {
    "terminal_escapes": {"mi_kernels": "\x1b[2J\x9b", "summary": "\x1b]0;x\x07\nnote: fine", "models": []},
    "numbers": {"mi_kernels": 1, "summary": 2},
    "models_a_text": {"mi_kernels": "1", "summary": "s", "models": "m", "base": [1]},
    "source_nested": {"mi_kernels": "1", "summary": "s", "base": {"source": {"a": ["\x1b"]}}},
    "1_mb_of_text": {"mi_kernels": "1", "summary": "s" * 1_000_000},
}
for _name, _record in _RECORDS.items():
    for _command in ("inspect", "inspect-json") if len(str(_record)) < 1000 else ("inspect",):
        FAMILY.add(
            f"record_{_name}_{_command}",
            lambda s, r=_record: (s.b / "mi_kernels.json").write_text(json.dumps(r)),
            harmless=True,
            command=_command,
            ours=True,
        )
FAMILY.add(
    "record_of_a_million_models",
    lambda s: (s.b / "mi_kernels.json").write_text(json.dumps({"models": [{"source": "m"}] * 1_000_000})),
    "mi_kernels.json",
    command="inspect-json",
    ours=True,
)
FAMILY.add(
    "record_deep",
    lambda s: (s.b / "mi_kernels.json").write_text(nested(900)),
    "mi_kernels.json",
    command="inspect-json",
    ours=True,
)
_FOLDERS = (
    "x\n---\nlicense: mine\n",
    "a\x7f\x1b[2J",
    "[x](javascript:alert(1))",
    "<script>",
    "`x`",
    "- &a *a",
    "b\udcff",
)
for _number, _folder in enumerate(_FOLDERS):
    FAMILY.add(
        f"card_of_a_folder_with_a_hostile_name_{_number}",
        lambda s, name=_folder: (s.b.rename(s.disk / name), s.b.symlink_to(s.disk / name)),
        harmless=True,
    )
