"""Names told apart, and the masks over layers and modules: ranges, names, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import ArgumentError
from mi_kernels.checkpoint.names import OTHER, classify, layer_count
from mi_kernels.recipe.interpolation import Recipe
from mi_kernels.recipe.masks import parse_layers, select

from ..support.models import tiny

PLACES = {
    "model.embed_tokens.weight": ("embed", None),
    "lm_head.weight": ("head", None),
    "model.norm.weight": ("norm", None),
    "model.layers.0.input_layernorm.weight": ("norm", 0),
    "model.layers.12.post_attention_layernorm.weight": ("norm", 12),
    **{f"model.layers.3.self_attn.{p}_proj.weight": ("attn", 3) for p in "qkvo"},
    "model.layers.3.self_attn.q_proj.bias": ("attn", 3),
    "model.layers.3.self_attn.q_norm.weight": ("attn", 3),
    "model.layers.3.self_attn.rotary_emb.inv_freq": ("attn", 3),
    **{f"model.layers.100.mlp.{p}_proj.weight": ("ffn", 100) for p in ("gate", "up", "down")},
    "model.layers.7.mlp.experts.127.gate_proj.weight": ("ffn", 7),
    "model.layers.7.mlp.shared_expert.down_proj.weight": ("ffn", 7),
    "model.layers.7.mlp.gate.weight": ("router", 7),
    "model.layers.7.mlp.shared_expert_gate.weight": ("router", 7),
    "something.else": (OTHER, None),
    "model.layers.1.unheard_of.weight": (OTHER, 1),
}


@pytest.mark.parametrize("name", PLACES)
def test_places(name: str) -> None:
    assert classify(name) == PLACES[name]


def test_layers_are_counted_by_their_numbers() -> None:
    assert layer_count(PLACES) == 101
    assert layer_count(["model.norm.weight"]) == 0
    assert layer_count([]) == 0


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("2:5", {2, 3, 4}),
        (":2", {0, 1}),
        ("6:", {6, 7}),
        (":", set(range(8))),
        ("3", {3}),
        ("-1", {7}),
        ("-2:", {6, 7}),
        (":-6", {0, 1}),
        ("-3:-1", {5, 6}),
        ("0:8", set(range(8))),
        (":2,6:", {0, 1, 6, 7}),
        ("0,2, 4:6", {0, 2, 4, 5}),
        ("1:4,2:6", {1, 2, 3, 4, 5}),
        (3, {3}),
        (-1, {7}),
        (slice(2, 5), {2, 3, 4}),
        (slice(None, None, 3), {0, 3, 6}),
        (range(1, 4), {1, 2, 3}),
        ([0, -1], {0, 7}),
        ({5}, {5}),
    ],
)
def test_layers(layers: Any, expected: set[int]) -> None:
    assert parse_layers(layers, 8) == expected


@pytest.mark.parametrize(
    "layers",
    ["", ",", "a", "1-3", "1:2:3", "::", "1.5", "--1", "+1", "8", "-9", "0:9", "-9:", "3:3", "5:2", "1:4,9", "²"],
)
def test_layers_as_text_that_are_refused(layers: str) -> None:
    with pytest.raises(ArgumentError, match="layer"):
        parse_layers(layers, 8)


@pytest.mark.parametrize("layers", [8, -9, True, [], [1.0], [None], slice(3, 3), range(0), [0, 8]])
def test_layers_that_are_refused(layers: Any) -> None:
    with pytest.raises(ArgumentError, match="layer"):
        parse_layers(layers, 8)


def test_a_fraction_is_no_layer() -> None:
    with pytest.raises(ArgumentError, match=r"1\.5"):
        parse_layers(1.5, 8)  # type: ignore[arg-type]


@given(start=st.integers(-8, 8), stop=st.integers(-8, 8))
def test_a_range_means_what_it_means_in_python(start: int, stop: int) -> None:
    expected = set(range(8)[start:stop])
    if expected:
        assert parse_layers(f"{start}:{stop}", 8) == expected
    else:
        with pytest.raises(ArgumentError):
            parse_layers(f"{start}:{stop}", 8)


NAMES = list(tiny(1, layers=3))


def names(*parts: str) -> set[str]:
    return {name for name in NAMES if any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("layers", "modules", "expected"),
    [
        (None, None, set(NAMES)),
        ("1", None, names("layers.1.")),
        ("1:", None, names("layers.1.", "layers.2.")),
        (":", None, names("layers.")),
        (None, "ffn", names(".mlp.")),
        (None, "attn", names(".self_attn.")),
        (None, "norm", names("layernorm", "model.norm")),
        (None, "embed", {"model.embed_tokens.weight"}),
        (None, "head", {"lm_head.weight"}),
        (None, "embed,head", {"model.embed_tokens.weight", "lm_head.weight"}),
        (None, " embed , head ", {"model.embed_tokens.weight", "lm_head.weight"}),
        (None, ["head"], {"lm_head.weight"}),
        (None, ("attn", "ffn", "norm", "embed", "head"), set(NAMES)),
        ("2", "attn", names("layers.2.self_attn.")),
        ("0,2", ["norm"], names("layers.0.input_l", "layers.0.post", "layers.2.input_l", "layers.2.post")),
    ],
)
def test_selection(layers: Any, modules: Any, expected: set[str]) -> None:
    assert expected
    assert select(NAMES, layers, modules) == expected
    weights = Recipe(0.3, layers, modules).weights(NAMES)
    assert weights == {name: 0.3 if name in expected else 0.0 for name in NAMES}


@pytest.mark.parametrize("modules", ["", "mlp", "ffn,", "FFN", "ffn attn", "other", [], ["ffn", "x"], [None], [3]])
def test_modules_that_are_unknown(modules: Any) -> None:
    with pytest.raises(ArgumentError, match="unknown"):
        select(NAMES, None, modules)


def test_a_module_the_model_does_not_have() -> None:
    with pytest.raises(ArgumentError, match="no router") as caught:
        select(NAMES, None, "ffn,router")
    assert "attn, embed, ffn, head, norm" in caught.value.remedy


def test_masks_that_select_nothing_together() -> None:
    with pytest.raises(ArgumentError, match="select no tensor"):
        select(NAMES, "0:2", "head")


def test_layers_of_a_model_that_has_none() -> None:
    with pytest.raises(ArgumentError, match="no tensor's name has a layer number"):
        select(["w", "lm_head.weight"], "0", None)
