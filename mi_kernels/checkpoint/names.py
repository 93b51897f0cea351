"""Finds the module and the decoder layer of a tensor from its name.

    attn    the token mixer of a layer: q, k, v, o, their norms, biases and sinks; MLA, cross-attention, linear
            attention, state-space (Mamba) and short-convolution mixers
    ffn     dense feed-forward, shared experts and routed experts
    router  the router of the experts: weight, bias and correction bias, and the gate of a shared expert
    norm    every other norm, inside and outside the layers
    embed   token and position embeddings
    head    the output projection
    other   everything else; no module mask selects it

Only decoder layers have a layer number. Vision and audio towers, projectors, the encoder of an encoder-decoder model
and layers for multi-token prediction are `other` and have no layer. Nothing is guessed: a layer number counts only if
all words before it are known to lead to a decoder, and a module only if the patterns below name it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ..errors import did_you_mean

MODULES = ("attn", "ffn", "router", "norm", "embed", "head")
OTHER = "other"
_OTHER_NAMES = {  # of modules, in the code of models and of other tools
    **dict.fromkeys(("mlp", "feed_forward", "experts", "expert", "moe", "dense"), "ffn"),
    **dict.fromkeys(("attention", "self_attn", "self_attention", "mixer", "mamba"), "attn"),
    **dict.fromkeys(("norms", "layernorm", "layer_norm", "rmsnorm", "ln"), "norm"),
    **dict.fromkeys(("embed_tokens", "embedding", "embeddings", "wte"), "embed"),
    **dict.fromkeys(("lm_head", "output", "unembed"), "head"),
    **dict.fromkeys(("gate", "gates", "routers"), "router"),
}

# At most four digits: headers are untrusted, and masks iterate up to the largest layer number.
_NUMBER = re.compile(r"\.([0-9]{1,4})(?=\.|$)")

# model.language_model., transformer., model.decoder. and so on. The decoder of ChatGLM is named transformer.encoder.
_PREFIX = (
    r"(?:transformer\.encoder\.|"
    r"(?:(?:base_model|model|transformer|language_model|text_model|gpt_neox|backbone|decoder|thinker|llm|rwkv)\.)*)"
)
# Not "blocks." without a prefix: vision towers use that name.
_STACK = re.compile(_PREFIX + r"(?:layers|h|(?<=\.)blocks?)")

# The first pattern that matches decides. Inside a layer, patterns apply to the text after the layer number, in which
# all other numbers are replaced by #:
_IN_LAYER = (
    # Nemotron-H uses the name mixer for everything in a layer: attention, Mamba, feed-forward or experts.
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
# Outside the layers, patterns apply from the start of the name:
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
    """The module and the decoder layer of a tensor. `layer` is None outside the decoder layers."""

    module: str
    layer: int | None


@lru_cache(maxsize=1 << 15)  # the names of a large model, which a live model asks for at every change
def classify(name: str) -> Place:
    """Returns the place of the tensor `name`. Use `places` for all names of a model, which is more accurate."""
    parts = _NUMBER.split(name)
    module, in_layer = _understand(tuple(parts[::2]))
    return Place(module, int(parts[1]) if in_layer else None)


def meant_module(name: str) -> str:
    """Returns a sentence for a remedy with the module that `name` may mean; empty if it is none.

    Example:
        >>> from mi_kernels.checkpoint.names import meant_module
        >>> meant_module("mlp")
        'Did you mean ffn?'
    """
    return did_you_mean(_OTHER_NAMES.get(name.lower().replace("-", "_"), name), MODULES)


def places(names: Iterable[str]) -> dict[str, Place]:
    """Returns the place of every tensor of a model.

    DeepSeek-V3 and GLM-4.5 store layers for multi-token prediction after the last decoder layer, with the same names.
    Only the tensor eh_proj identifies them. They are `other` and have no layer.
    """
    found = {name: classify(name) for name in names}
    extra = {found[name].layer for name in found if ".eh_proj." in name} - {None}
    if extra:
        return {name: Place(OTHER, None) if place.layer in extra else place for name, place in found.items()}
    return found


def layer_count(names: Iterable[str]) -> int:
    """Returns the largest decoder layer number in `names` plus one."""
    return max((place.layer + 1 for place in places(names).values() if place.layer is not None), default=0)


# A model has thousands of names but only a few dozen without their numbers, so results are cached.
@lru_cache(maxsize=8192)
def _understand(texts: tuple[str, ...]) -> tuple[str, bool]:
    """Returns the module for a name split at its numbers, and whether the first number is a decoder layer."""
    in_layer = len(texts) > 1 and _STACK.fullmatch(texts[0]) is not None
    table, text = (_IN_LAYER, ".#".join(texts[1:])) if in_layer else (_OUTSIDE, ".#".join(texts))
    return next((m for m, p in table if (p.search if in_layer else p.match)(text)), OTHER), in_layer
