"""What a tensor is, told from its name: its module and its layer.

Modules: attn (projections, their biases and norms inside the attention), ffn (dense, shared and routed experts),
router, norm, embed, head; "other" for names this table does not know, which no mask ever selects silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MODULES = ("attn", "ffn", "router", "norm", "embed", "head")
OTHER = "other"

# model.layers.7.self_attn.q_proj.weight -> 7, "self_attn.q_proj.weight"
_LAYER = re.compile(r"^(?:.*?\.)??(?:layers|h|blocks)\.(\d+)\.(.+)$")

# The first pattern found decides. Within a layer, on what follows its number:
_IN_LAYER = (
    ("router", re.compile(r"(?:^|\.)(?:gate|router|shared_expert_gate)\.(?:weight|bias|e_score_correction_bias)$")),
    ("attn", re.compile(r"^(?:self_attn|attention|attn|linear_attn|self_attention)\.")),
    ("ffn", re.compile(r"^(?:mlp|feed_forward|block_sparse_moe)\.")),
    ("norm", re.compile(r"^[a-z_]*(?:layernorm|layer_norm|norm)[a-z_]*\.(?:weight|bias)$")),
)
# Outside the layers, on the whole name:
_OUTSIDE = (
    ("embed", re.compile(r"(?:^|\.)(?:embed_tokens|wte|tok_embeddings|word_embeddings)\.weight$")),
    ("head", re.compile(r"(?:^|\.)(?:lm_head|output)\.(?:weight|bias)$")),
    ("norm", re.compile(r"(?:^|\.)(?:norm|ln_f|final_layernorm)\.(?:weight|bias)$")),
)


class Place(NamedTuple):
    """Where in a model a tensor belongs; `layer` is None outside the decoder layers."""

    module: str
    layer: int | None


def classify(name: str) -> Place:
    """The place of the tensor called `name`."""
    match = _LAYER.match(name)
    table, text = (_IN_LAYER, match[2]) if match else (_OUTSIDE, name)
    module = next((module for module, pattern in table if pattern.search(text)), OTHER)
    return Place(module, int(match[1]) if match else None)


def layer_count(names: Iterable[str]) -> int:
    """One more than the largest layer number among `names`."""
    return max((place.layer + 1 for place in map(classify, names) if place.layer is not None), default=0)
