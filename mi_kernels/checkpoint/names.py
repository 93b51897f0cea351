"""What a tensor is, told from its name: its module and its decoder layer.

    attn    a layer's token mixer with all it holds: q, k, v, o, their norms, biases and sinks; MLA, cross-attention,
            linear attention, state-space (Mamba) and short-convolution mixers
    ffn     dense feed-forward, shared and routed experts
    router  what chooses experts: its weight, bias and correction bias, and the gate of a shared expert
    norm    every other norm, in a layer and outside
    embed   token and position embeddings
    head    the output projection
    other   everything else: no modules mask ever selects it

Only decoder layers have a number. Vision and audio towers, projectors, the encoder of an encoder-decoder and layers for
multi-token prediction are other, and in no layer. Nothing is guessed: a layer counts only where every word before its
number is known to lead to a decoder, and a module only where this table names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

MODULES = ("attn", "ffn", "router", "norm", "embed", "head")
OTHER = "other"

# At most four digits: headers come from strangers, and masks count up to the largest layer number.
_NUMBER = re.compile(r"\.([0-9]{1,4})(?=\.|$)")

# model.language_model., transformer., model.decoder. and so on. ChatGLM calls its decoder an encoder.
_PREFIX = (
    r"(?:transformer\.encoder\.|"
    r"(?:(?:base_model|model|transformer|language_model|text_model|gpt_neox|backbone|decoder|thinker|llm|rwkv)\.)*)"
)
# Not "blocks." alone: that is how vision towers are stored.
_STACK = re.compile(_PREFIX + r"(?:layers|h|(?<=\.)blocks?)")

# The first pattern found decides. Within a layer, on what follows its number, other numbers written as #:
_IN_LAYER = (
    # Nemotron-H calls whatever a layer holds its mixer: attention, Mamba, feed-forward or experts.
    ("router", re.compile(r"^\.mixer\.gate\.")),
    ("ffn", re.compile(r"^\.mixer\.(?:experts|shared_experts|\w*_latent_proj|(?:up|down)_proj)\.")),
    ("attn", re.compile(r"^\.(?:mixer|conv|temporal_block)\.")),
    ("attn", re.compile(r"\.(?:(?:self_|cross_|encoder_|linear_)?attn|(?:self_|cross)?attention|mamba)\.")),
    ("attn", re.compile(r"^\.layer\.#\.(?:SelfAttention|EncDecAttention)\.")),
    ("norm", re.compile(r"\.(?:\w*_)?(?:layer_?norm|rms_?norm|norm|ln)(?:_\w+|\d*)\.", re.IGNORECASE)),
    ("router", re.compile(r"\.(?:e_score_correction_bias|router_bias)$")),
    ("ffn", re.compile(r"\.experts\.")),
    ("router", re.compile(r"\.(?:gate|router|shared_expert_gate)\.")),
    ("ffn", re.compile(r"\.(?:mlp|mlp_block|feed_forward|ffn|moe|block_sparse_moe|shared_mlp|shared?_experts?)\.")),
    ("ffn", re.compile(r"^\.(?:fc1|fc2|layer\.#\.DenseReluDense)\.")),
)
# Outside the layers, from the start of the name:
_OUTSIDE = (
    (
        "norm",
        re.compile(
            _PREFIX + r"(?:embed_tokens\.|embeddings\.|lm_head\.)?(?:norm|norm_f|ln_f|ln_out|layer_norm|final_norm|"
            r"final_layer_?norm|embed_norm|embedding_norm|word_embeddings_layernorm|layernorm_embedding)\."
        ),
    ),
    (
        "embed",
        re.compile(
            _PREFIX + r"(?:embed_tokens|embed_tokens_per_layer|embed_positions|embed_in|embed|embeddings?|shared|"
            r"tok_embeddings|word_embeddings|wte|wpe)\."
        ),
    ),
    (
        "head",
        re.compile(_PREFIX + r"(?:lm_head|output|output_layer|output_projection|embed_out|proj_out)\.|head\.weight$"),
    ),
)


class Place(NamedTuple):
    """Where in a model a tensor belongs; `layer` is None outside the decoder layers."""

    module: str
    layer: int | None


def classify(name: str) -> Place:
    """The place of the tensor called `name`, as far as one name tells; see `places`."""
    parts = _NUMBER.split(name)
    module, in_layer = _understand(tuple(parts[::2]))
    return Place(module, int(parts[1]) if in_layer else None)


def places(names: Iterable[str]) -> dict[str, Place]:
    """The place of every tensor of a model.

    DeepSeek-V3 and GLM-4.5 store layers for multi-token prediction after the last decoder layer, under the same names;
    only their eh_proj gives them away. They are other, and in no layer.
    """
    found = {name: classify(name) for name in names}
    extra = {found[name].layer for name in found if ".eh_proj." in name} - {None}
    if extra:
        return {name: Place(OTHER, None) if place.layer in extra else place for name, place in found.items()}
    return found


def layer_count(names: Iterable[str]) -> int:
    """One more than the largest decoder layer number among `names`."""
    return max((place.layer + 1 for place in places(names).values() if place.layer is not None), default=0)


# A model has thousands of names, of a few dozen kinds: the numbers are taken out, and the rest is looked up.
@lru_cache(maxsize=8192)
def _understand(texts: tuple[str, ...]) -> tuple[str, bool]:
    """The module of a name cut at its numbers, and whether the first of them is a decoder layer's."""
    in_layer = len(texts) > 1 and _STACK.fullmatch(texts[0]) is not None
    table, text = (_IN_LAYER, ".#".join(texts[1:])) if in_layer else (_OUTSIDE, ".#".join(texts))
    return next((m for m, p in table if (p.search if in_layer else p.match)(text)), OTHER), in_layer
