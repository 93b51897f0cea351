"""Masks with fractions, rules, schedules over depth, recipes as plain values, and the table of what a recipe does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels.checkpoint.names import MODULES, classify
from mi_kernels.cli.recipe_table import Row, format_table, recipe_table
from mi_kernels.errors import ArgumentError
from mi_kernels.output.synthetic import qwen3_shapes
from mi_kernels.recipe.interpolation import Recipe
from mi_kernels.recipe.masks import parse_layers, select
from mi_kernels.recipe.rules import Rule, near_misses, schedule

SIZE = {"hidden": 8, "ffn": 16, "heads": 2, "kv_heads": 1}
DENSE = list(qwen3_shapes(layers=36, **SIZE))
EXPERTS = list(qwen3_shapes(layers=4, experts=3, expert_ffn=8, tied=False, **SIZE))


def layers_of(names: set[str]) -> set[int | None]:
    return {classify(name).layer for name in names}


class TestFractions:
    def test_thirds_of_36_are_12(self) -> None:
        assert layers_of(select(DENSE, ":1/3")) == set(range(12))
        assert layers_of(select(DENSE, "1/3:2/3")) == set(range(12, 24))
        assert layers_of(select(DENSE, "2/3:")) == set(range(24, 36))

    @given(count=st.integers(1, 200), parts=st.integers(1, 50))
    def test_parts_cover_every_layer_once(self, count: int, parts: int) -> None:
        found = []
        for i in range(parts):
            if count * i // parts < count * (i + 1) // parts:  # else the part is empty, which is an error
                found += sorted(parse_layers(f"{i}/{parts}:{i + 1}/{parts}", count))
        assert found == list(range(count))

    def test_fractions_and_numbers_mix(self) -> None:
        assert parse_layers("3:1/3, -1", 12) == {3, 11}
        assert parse_layers("1/4:-2", 12) == set(range(3, 10))

    @pytest.mark.parametrize("text", ["1/3", "3/2:", "1/0:", "-1/3:", "1/3:1/3", "1/-3:", "0.5:", "1/:", "/3:"])
    def test_what_is_no_range_is_refused(self, text: str) -> None:
        with pytest.raises(ArgumentError):
            parse_layers(text, 36)

    def test_a_list_may_hold_ranges(self) -> None:
        assert parse_layers([0, "3:5", "5/6:"], 6) == {0, 3, 4, 5}
        assert parse_layers(np.array([1, 2]), 6) == {1, 2}

    @pytest.mark.parametrize(
        "layers", [1.5, True, [True], [1.0], [None], "9" * 5000, slice(0, 4, 0), slice(0.5), [], object(), b"x"]
    )
    def test_what_is_no_layer_is_refused(self, layers: Any) -> None:
        with pytest.raises(ArgumentError):
            parse_layers(layers, 36)

    @pytest.mark.parametrize("modules", [5, ["attn", ["ffn"]], [None], [], "", "other"])
    def test_what_is_no_module_is_refused(self, modules: Any) -> None:
        with pytest.raises(ArgumentError):
            select(DENSE, modules=modules)

    def test_masks_that_do_not_meet_say_where_the_module_is(self) -> None:
        names = [
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.1.mlp.gate.weight",
            "model.layers.2.mlp.gate.weight",
        ]
        with pytest.raises(ArgumentError, match="router is in layers 1:3"):
            select(names, "0", "router")


class TestRules:
    def test_the_last_match_wins(self) -> None:
        recipe = Recipe(0.8, rules=[Rule(0.5, modules="attn"), Rule(0.25, "12:24"), Rule(0, pattern=r"\.q_proj\.")])
        weights = recipe.weights(DENSE)
        assert list(weights) == DENSE
        assert weights["model.layers.0.mlp.up_proj.weight"] == 0.8
        assert weights["model.layers.0.self_attn.k_proj.weight"] == 0.5
        assert weights["model.layers.12.self_attn.k_proj.weight"] == 0.25
        assert weights["model.layers.12.self_attn.q_proj.weight"] == 0
        assert weights["model.norm.weight"] == 0.8

    def test_order_matters(self) -> None:
        attn, middle = Rule(0.5, modules="attn"), Rule(0.25, "12:24")
        name = "model.layers.12.self_attn.k_proj.weight"
        assert Recipe(1, rules=[attn, middle]).weights(DENSE)[name] == 0.25
        assert Recipe(1, rules=[middle, attn]).weights(DENSE)[name] == 0.5

    def test_outside_the_masks_lam_is_0(self) -> None:
        weights = Recipe(0.8, "12:36", "ffn").weights(DENSE)
        assert {n for n, lam in weights.items() if lam} == select(DENSE, "12:36", "ffn")
        assert set(weights.values()) == {0.0, 0.8}

    def test_a_rule_selects_what_all_its_parts_select(self) -> None:
        weights = Recipe(0, rules=[Rule(0.5, "1:3", "ffn", r"experts\.[02]\..*_proj")]).weights(EXPERTS)
        chosen = {n for n, lam in weights.items() if lam}
        assert chosen == {
            f"model.layers.{i}.mlp.experts.{e}.{p}_proj.weight"
            for i in (1, 2)
            for e in (0, 2)
            for p in ("gate", "up", "down")
        }

    def test_a_pattern_reaches_other_tensors_and_a_mask_does_not(self) -> None:
        names = [*DENSE, "visual.blocks.0.attn.qkv.weight"]
        assert Recipe(0, rules=[Rule(1, pattern="^visual")]).weights(names)[names[-1]] == 1
        assert Recipe(0, rules=[Rule(1, modules="attn")]).weights(names)[names[-1]] == 0
        assert Recipe(0.5).weights(names)[names[-1]] == 0.5

    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            (Rule(1, pattern=r"self_atn\.q_proj"), r"rule 2: pattern .* no tensor\nNear misses: .*self_attn\.q_proj"),
            (Rule(1, pattern=r"layers\.\d+\.mlp\.dwn_proj"), r"Near misses: model\.layers\.0\.mlp\.down_proj"),
            (Rule(1, pattern="zzzz"), r"Names look like model\.embed_tokens"),
            (Rule(1, pattern="("), "rule 2: .* cannot be used as a regular expression"),
            (
                Rule(1, pattern=r"layers\.3\..*q_proj", modules="ffn"),
                "none of them in modules ffn\nThey are attn, in layer 3",
            ),
            (Rule(1, modules="router"), "rule 2: modules: this model has no router\nIt has attn, embed, ffn, norm"),
            (Rule(1, layers="36"), "rule 2: layers: this model has no layer 36"),
            (Rule(1.5, modules="ffn"), "rule 2: lam is 1.5"),
        ],
    )
    def test_a_rule_that_does_nothing_is_refused(self, rule: Rule, message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            Recipe(0.8, rules=[Rule(0, modules="norm"), rule]).weights(DENSE)

    @pytest.mark.parametrize(
        ("lam", "message"),
        [
            ([0, float("nan")], "lam is nan"),
            ([], "lam is an empty list"),
            ("high", "lam is 'high', which is text"),
            ("0.8", "lam is '0.8', which is text and not a number\\nGive a number from 0 to 1. Remove the quotes: 0.8"),
            (True, "lam is True"),
            ([0, True], "lam is True"),
            (np.array([0.2, 0.8]), "not one number\\n.*tolist"),
            (None, "lam is None"),
        ],
    )
    @pytest.mark.parametrize("kind", [Recipe, Rule])
    def test_lam_is_checked_where_it_is_given(self, kind: Any, lam: Any, message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            kind(lam)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"rules": Rule(0)}, "rules is Rule.*\\nGive a list of rules"),
            ({"rules": [{"lam": 0}]}, "rule 1 is {'lam': 0}, a dict\\nGive a mi_kernels.Rule"),
            ({"extrapolate": "no"}, "extrapolate is 'no'"),
        ],
    )
    def test_a_recipe_refuses_other_types(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            Recipe(0.5, **given)

    def test_near_misses_come_one_for_each_kind(self) -> None:
        close = near_misses(r"experts\.\d+\.dwn_proj", EXPERTS)
        assert close[0] == "model.layers.0.mlp.experts.0.down_proj.weight"
        assert len(close) == 3

    def test_extrapolation_is_asked_for(self) -> None:
        with pytest.raises(ArgumentError, match=r"lam is -0\.2"):
            Recipe(-0.2).weights(DENSE)
        recipe = Recipe(-0.2, rules=[Rule([1, 1.5], modules="ffn")], extrapolate=True)
        assert set(recipe.weights(DENSE).values()) >= {-0.2, 1.0, 1.5}


class TestSchedules:
    def test_anchors_stand_at_even_distances(self) -> None:
        assert schedule([0.0, 1.0], range(5)) == {0: 0.0, 1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0}
        assert schedule([0.0, 1.0, 0.0], range(5)) == {0: 0.0, 1: 0.5, 2: 1.0, 3: 0.5, 4: 0.0}

    def test_more_anchors_than_layers(self) -> None:
        assert schedule([0.0, 0.1, 0.2, 0.3, 0.4], [0, 1, 2]) == {0: 0.0, 1: 0.2, 2: 0.4}

    def test_one_anchor_is_a_constant_and_one_layer_takes_the_last(self) -> None:
        assert schedule([0.3], range(3)) == dict.fromkeys(range(3), 0.3)
        assert schedule([0.0, 0.9], [7]) == {7: 0.9}

    @given(
        anchors=st.lists(st.floats(0, 1), min_size=1, max_size=7),
        count=st.integers(2, 100),
    )
    def test_against_numpy(self, anchors: list[float], count: int) -> None:
        found = list(schedule(anchors, range(count)).values())
        expected = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(anchors)), anchors)
        # Both round each of about five operations on numbers up to 7 (the position among the anchors): 5 * 7 * 2^-53.
        np.testing.assert_allclose(found, expected if len(anchors) > 1 else anchors * count, rtol=0, atol=4e-15)
        assert all(0 <= lam <= 1 for lam in found)

    def test_what_lies_outside_the_layers_takes_the_first_anchor(self) -> None:
        weights = Recipe([0.2, 0.8]).weights(EXPERTS)
        assert {weights[n] for n in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")} == {0.2}
        assert weights["model.layers.3.mlp.gate.weight"] == 0.8

    def test_a_schedule_runs_along_its_own_layers(self) -> None:
        weights = Recipe(0, rules=[Rule([0.0, 1.0], "12:23", "norm")]).weights(DENSE)
        norms = [weights[f"model.layers.{i}.input_layernorm.weight"] for i in range(36)]
        assert norms[:12] == [0] * 12
        assert norms[12:23] == [i / 10 for i in range(11)]
        assert norms[23:] == [0] * 13

    def test_a_pattern_does_not_change_the_depth(self) -> None:
        weights = Recipe(0, rules=[Rule([0.0, 1.0], pattern=r"layers\.[12]\.mlp\.gate\.")]).weights(EXPERTS)
        gates = [weights[f"model.layers.{i}.mlp.gate.weight"] for i in range(4)]
        # mergekit's own order of operations, whose rounding shows here: t = 1 / 3 and 2 / 3.
        assert gates == [0, 1 / 3, 2 / 3, 0]


class TestPlainValues:
    @pytest.mark.parametrize(
        "recipe",
        [
            Recipe(0.8),
            Recipe([0, 0.5, 1]),
            Recipe(0.8, "12:36", "ffn"),
            Recipe(1.2, [0, 3, "1/3:"], ["attn", "ffn"], extrapolate=True),
            Recipe(0, 5, rules=(Rule([0, 1], "1/3:", "ffn"), Rule(0.3, pattern=r"q_proj"))),
        ],
    )
    def test_round_trip(self, recipe: Recipe) -> None:
        plain = recipe.to_dict()
        assert Recipe.from_dict(json.loads(json.dumps(plain))) == recipe
        assert Recipe.from_dict(plain).to_dict() == plain

    @pytest.mark.parametrize("layers", [range(3, 9), slice(3, 9), {3, 4, 5, 6, 7, 8}, (3, 4, 5, 6, 7, 8)])
    def test_layers_of_every_kind_become_plain(self, layers: Any) -> None:
        recipe = Recipe(0.5, layers)
        again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
        assert again.weights(DENSE) == recipe.weights(DENSE)

    def test_a_stepped_slice_cannot_be_written_down(self) -> None:
        with pytest.raises(ArgumentError, match="Give the layers as a list"):
            Recipe(0.5, slice(0, 9, 2)).to_dict()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"lam": 0.5, "layer": "3"}, "the recipe: unknown key 'layer'\nDid you mean layers\\?"),
            (
                {"lam": 0.5, "rules": [{"lam": 1, "patern": "x"}]},
                "rule 1: unknown key 'patern'\nDid you mean pattern\\?",
            ),
            ({"lam": 0.5, 3: 1}, "unknown key 3\nThe keys are lam, layers, modules, rules, extrapolate"),
            ({"layers": "3"}, "the recipe: lam is missing"),
            ({"lam": 0.5, "rules": [{"modules": "ffn"}]}, "rule 1: lam is missing"),
            ({"lam": 0.5, "rules": {"lam": 1}}, "rules: .* is not a list"),
            ({"lam": 0.5, "rules": [0.5]}, "rule 1: 0.5 is not a mapping"),
            ({"lam": 0.5, "rules": [{"lam": 2}]}, "rule 1: lam is 2"),
            ({"lam": 0.5, "rules": [{"lam": 1, "pattern": 3}]}, "rule 1: pattern 3 is not text"),
            ({"lam": None}, "lam is None"),
            ({"lam": 0.5, "extrapolate": "no"}, "extrapolate: 'no' is not true or false"),
            ("0.5", "the recipe: '0.5' is not a mapping"),
        ],
    )
    def test_wrong_values_are_named(self, content: Any, message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            Recipe.from_dict(content)


def show(count: float) -> str:
    return f"{count:.0f} B"


class TestTable:
    sizes = dict.fromkeys(EXPERTS, 10)

    def rows(self, recipe: Recipe) -> list[Row]:
        return recipe_table(self.sizes, recipe.weights(EXPERTS))

    def test_layers_that_agree_are_one_run(self) -> None:
        assert self.rows(Recipe(0.8, "2:", "ffn")) == [
            Row(None, None, "norm", 0.0, 1, 10),
            Row(None, None, "embed", 0.0, 1, 10),
            Row(None, None, "head", 0.0, 1, 10),
            Row(0, 1, "attn", 0.0, 12, 120),
            Row(0, 1, "ffn", 0.0, 18, 180),
            Row(0, 1, "router", 0.0, 2, 20),
            Row(0, 1, "norm", 0.0, 4, 40),
            Row(2, 3, "attn", 0.0, 12, 120),
            Row(2, 3, "ffn", 0.8, 18, 180),
            Row(2, 3, "router", 0.0, 2, 20),
            Row(2, 3, "norm", 0.0, 4, 40),
        ]

    def test_a_module_with_two_lam_has_two_rows(self) -> None:
        rows = self.rows(Recipe(0.8, rules=[Rule(0.1, pattern="q_proj")]))
        assert [row for row in rows if row.module == "attn"] == [
            Row(0, 3, "attn", 0.1, 4, 40),
            Row(0, 3, "attn", 0.8, 20, 200),
        ]

    def test_different_counts_of_two_lam_are_not_hidden_in_one_run(self) -> None:
        rows = self.rows(Recipe(0.8, rules=[Rule(0.1, pattern=r"q_proj|layers\.2\..*k_proj")]))
        assert [(r.first, r.last, r.tensors) for r in rows if r.lam == 0.1] == [(0, 1, 2), (2, 2, 2), (3, 3, 1)]

    def test_hybrid_layers_with_equal_lam_are_one_run(self) -> None:
        names = {"model.layers.0.linear_attn.A_log": 1, "model.layers.1.self_attn.q_proj.weight": 2}
        names |= {"model.layers.1.self_attn.k_proj.weight": 4}
        assert recipe_table(names, dict.fromkeys(names, 0.5)) == [Row(0, 1, "attn", 0.5, 3, 7)]

    def test_a_gap_in_the_numbers_ends_a_run(self) -> None:
        names = {f"model.layers.{i}.self_attn.q_proj.weight": 1 for i in (0, 2)}
        assert [(r.first, r.last) for r in recipe_table(names, dict.fromkeys(names, 0.5))] == [(0, 0), (2, 2)]

    @given(
        anchors=st.lists(st.floats(0, 1), min_size=1, max_size=4),
        layers=st.sampled_from([None, "1:3", ":1/2"]),
        modules=st.sampled_from([None, "attn", "ffn,router"]),
    )
    def test_nothing_is_lost(self, anchors: list[float], layers: str | None, modules: str | None) -> None:
        recipe = Recipe(anchors, layers, modules)
        rows = self.rows(recipe)
        assert sum(r.tensors for r in rows) == len(EXPERTS)
        assert sum(r.nbytes for r in rows) == 10 * len(EXPERTS)
        weights = recipe.weights(EXPERTS)
        for row in rows:
            held = range(row.first, row.last + 1) if row.first is not None and row.last is not None else [None]
            names = [n for n in EXPERTS if classify(n).module == row.module and classify(n).layer in held]
            assert sum(weights[n] == row.lam for n in names) == row.tensors

    def test_text(self) -> None:
        assert format_table(self.rows(Recipe(0.8, "2:", "ffn", [Rule(1, pattern=r"3.*q_proj")])), show) == (
            """\
lam: tensors, bytes

          norm         embed        head
outside   0: 1, 10 B   0: 1, 10 B   0: 1, 10 B

layers    attn           ffn              router       norm
0:2       0: 12, 120 B     0: 18, 180 B   0: 2, 20 B   0: 4, 40 B
2         0:  6,  60 B   0.8:  9,  90 B   0: 1, 10 B   0: 2, 20 B
3         0:  5,  50 B   0.8:  9,  90 B   0: 1, 10 B   0: 2, 20 B
          1:  1,  10 B

75 tensors, 750 B: 180 B interpolated, 560 B copied from INSTRUCT (lam 0), 10 B from THINKING (lam 1)"""
        )

    def test_wide_tables_stay_within_120_columns(self) -> None:
        rows = [Row(i, i, m, -i / 9999, 99_999, 10**12) for i in range(998, 1100) for m in (*MODULES, "other")]
        text = format_table(rows, lambda count: f"{count / 1e15:.3g} PB")
        assert max(map(len, text.splitlines())) <= 120
        assert all(module in text.split() for module in MODULES)

    def test_nothing_gives_a_line_of_zeros(self) -> None:
        assert "0 tensors, 0 B" in format_table([], show)


def test_a_sweep_replaces_lam_only() -> None:
    recipe = Recipe(0.2, "12:", rules=[Rule(0, modules="attn")])
    low, high = recipe.weights(DENSE), replace(recipe, lam=0.8).weights(DENSE)
    assert {n for n in DENSE if low[n] != high[n]} == select(DENSE, "12:") - select(DENSE, modules="attn")
