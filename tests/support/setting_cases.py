"""Settings by depth and tensor, as our own tests and mergekit's own function evaluate them."""

from __future__ import annotations

from typing import Any

Q = "model.layers.3.self_attn.q_proj.weight"
UP = "model.layers.3.mlp.up_proj.weight"
NORM = "model.norm.weight"
NAMES = (Q, UP, NORM)
DEPTHS = (0, 1 / 35, 0.25, 1 / 3, 0.5, 0.7, 34 / 35, 1)


# (setting, whether it is true or false): tests/integrations/mergekit asks mergekit's own function about all of them.
CASES: list[tuple[Any, bool]] = [
    (0.3, False), (2, False), ("0.5", False), ("1e-3", False), (-0.25, False), (0, False),
    ([0.1], False), ([0, 1], False), ([0, 0.5, 0.3, 0.7, 1], False), ([1, 0.5, 0.7, 0.3, 0], False),
    ([0.1, "0.9"], False), ([5, -5, 5], False),
    ([{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": 0.8}, {"value": 0.25}], False),
    ([{"filter": "mlp", "value": 0.8}], False), ([{"filter": "*", "value": 0.1}, {"value": 0.2}], False),
    ([{"filter": "proj", "value": 1}, {"filter": "self_attn", "value": 2}, {"filter": None, "value": 3}], False),
    ({"filter": "norm", "value": [0, 2]}, False), ({"value": 0.4}, False),
    (True, True), (False, True), (1, True), (0, True), ([True, False], True), ([False, True, True], True),
    ([0, 1], True), ([{"filter": "mlp", "value": False}, {"value": True}], True),
]  # fmt: skip
