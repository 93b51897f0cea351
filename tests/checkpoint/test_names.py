"""Modules and layers of the tensor names of real architectures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mi_kernels.checkpoint.names import MODULES, OTHER, Place, _understand, classify, layer_count, places

LISTS = sorted((Path(__file__).parent / "architectures").glob("*.txt"))


def rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (module, where, pattern) of a list from architectures/make.py or from published checkpoints."""
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            module, where, pattern = line.split()
            yield module, where, pattern


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_architecture(path: Path) -> None:
    wrong = []
    for module, _, pattern in rows(path):
        for layer in (0, 7, 46):
            name = pattern.replace("{layer}", str(layer)).replace("{n}", "13")
            expected = Place(module, layer if "{layer}" in pattern else None)
            if classify(name) != expected:
                wrong.append((name, expected, classify(name)))
    assert not wrong


@pytest.mark.parametrize("path", [p for p in LISTS if p.stem != "published"], ids=lambda p: p.stem)
def test_text_models_have_no_module_other(path: Path) -> None:
    others = {pattern for module, _, pattern in rows(path) if module == OTHER}
    assert all("{layer}" not in p for p in others)
    assert all(any(w in p for w in ("visual", "vision_", "multi_modal_projector", "encoder")) for p in others)


def test_lists_name_25_architectures_and_every_module() -> None:
    assert len(LISTS) > 25
    assert {module for path in LISTS for module, _, _ in rows(path)} == {*MODULES, OTHER}


def test_layers_for_multi_token_prediction_are_no_decoder_layers() -> None:
    decoder = [f"model.layers.{i}.self_attn.q_a_proj.weight" for i in range(61)]
    prediction = [
        f"model.layers.61.{rest}.weight"
        for rest in ("embed_tokens", "enorm", "hnorm", "eh_proj", "self_attn.q_a_proj", "mlp.gate", "shared_head.head")
    ]
    found = places([*decoder, *prediction])
    assert layer_count([*decoder, *prediction]) == 61
    assert all(found[name] == Place(OTHER, None) for name in prediction)
    assert found[decoder[60]] == Place("attn", 60)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "weight",
        "model.layers",
        "model.layers.",
        "model.layers.7",
        "model.layers.x.self_attn.q_proj.weight",
        "model.layers.#.self_attn.q_proj.weight",
        "model.layers.-1.self_attn.q_proj.weight",
        "model.layers.12345.self_attn.q_proj.weight",
        f"model.layers.{'9' * 5000}.self_attn.q_proj.weight",
        "model.layers.\u0663.self_attn.q_proj.weight",
        "model.unknown.layers.7.self_attn.q_proj.weight",
        "model.layers.self_attn.3.q_proj.weight",
        "my_lm_head.weight",
        "model.lm_head",
    ],
)
def test_strange_names_are_other(name: str) -> None:
    place = classify(name)
    assert place.module == OTHER
    assert place.layer in (None, 7)


def test_only_the_first_number_is_the_layer() -> None:
    assert classify("model.layers.7.mlp.experts.127.down_proj.weight") == Place("ffn", 7)
    assert classify("decoder.block.7.layer.1.EncDecAttention.q.weight") == Place("attn", 7)


def test_layer_count_of_nothing_is_zero() -> None:
    assert layer_count([]) == layer_count(["lm_head.weight"]) == 0


def test_names_of_one_kind_are_understood_once() -> None:
    names = [f"made.up.{i}.experts.{e}.weight" for i in range(50) for e in range(50)]
    before = _understand.cache_info().misses
    places(names)
    assert _understand.cache_info().misses == before + 1
