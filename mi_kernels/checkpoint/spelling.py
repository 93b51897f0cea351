"""Matches tensor names that mean the same tensor but are spelled differently.

A model keeps its architecture, and its files change their names: wrappers of training frameworks add words, versions of
transformers move the towers of multimodal models, and other trainers drop the leading `model.`. Two functions handle
this:

    clean(name)       removes the words that wrappers add, wherever they stand
    canonical(name)   returns a spelling that all known variants of a name share; only used to compare names

The variants are those of `conversion_mapping.py` and `_checkpoint_conversion_mapping` in transformers, and of published
checkpoints. A tensor is only matched if exactly one tensor on each side has the canonical name, so two towers of one
model are never confused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import NamedTuple

from .names import classify

# torch.compile, DistributedDataParallel, FSDP, activation checkpointing (FSDP and fairscale), DeepSpeed and Fabric.
_WRAPPERS = frozenset(
    (
        "_orig_mod",
        "module",
        "_fsdp_wrapped_module",
        "_fpw_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_ddp_module",
    )
)

# Words that contain the whole model or the whole text decoder. They can be missing or come in another order.
_CONTAINERS = frozenset(
    ("base_model", "model", "language_model", "text_model", "transformer", "gpt_neox", "backbone", "llm", "thinker")
)

# Other spellings, applied in this order after the leading containers are removed.
_REWRITES = (
    # The vision models of CLIP and SigLIP: transformers 5 drops the inner name.
    (re.compile(r"^(vision_tower|vision_model|visual|image_encoder)\.vision_model\."), r"\1."),
    # Mixtral, MiniMax, Phi-MoE: transformers 5 calls the block and the experts as all other families do.
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),
    (re.compile(r"\.experts\.(\d+)\.w1\."), r".experts.\1.gate_proj."),
    (re.compile(r"\.experts\.(\d+)\.w3\."), r".experts.\1.up_proj."),
    (re.compile(r"\.experts\.(\d+)\.w2\."), r".experts.\1.down_proj."),
    (re.compile(r"\.experts\.(gate_up_proj|down_proj)\.weight$"), r".experts.\1"),
    # Granite MoE: fused experts under another name.
    (re.compile(r"\.mlp\.input_linear\.weight$"), ".mlp.experts.gate_up_proj"),
    (re.compile(r"\.mlp\.output_linear\.weight$"), ".mlp.experts.down_proj"),
    (re.compile(r"\.mlp\.router\.layer\.weight$"), ".mlp.router.weight"),
    # Layer norms converted from TensorFlow.
    (re.compile(r"\.LayerNorm\.gamma$"), ".LayerNorm.weight"),
    (re.compile(r"\.LayerNorm\.beta$"), ".LayerNorm.bias"),
    # Output projections of GPT-NeoX, ChatGLM and others.
    (re.compile(r"^(?:embed_out|output_layer|unembed)\.|^head\.(?=weight$)"), "lm_head."),
)
_LAYERS = re.compile(r"(?:layers|h|blocks?)\.\d")


def clean(name: str) -> str:
    """Returns `name` without the words that wrappers of training frameworks add.

    Example:
        >>> from mi_kernels.checkpoint.spelling import clean
        >>> clean("module._orig_mod.model.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight")
        'model.layers.0.mlp.up_proj.weight'
    """
    if "module" not in name and "_orig_mod" not in name:  # the most frequent case
        return name
    return ".".join(word for word in name.split(".") if word not in _WRAPPERS) or name


@lru_cache(maxsize=1 << 15)  # names are untrusted: the cache must stay small
def canonical(name: str) -> str:
    """Returns the spelling of `name` that all its known variants share.

    Example:
        >>> from mi_kernels.checkpoint.spelling import canonical
        >>> canonical("language_model.model.layers.0.mlp.up_proj.weight")
        'layers.0.mlp.up_proj.weight'
        >>> canonical("model.visual.merger.mlp.0.weight"), canonical("visual.merger.mlp.0.weight")
        ('visual.merger.mlp.0.weight', 'visual.merger.mlp.0.weight')
    """
    words = clean(name).split(".")
    first = 0
    while first < len(words) - 1 and words[first] in _CONTAINERS:
        first += 1
    text = ".".join(words[first:])
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


class Renaming(NamedTuple):
    """A tensor that another model spells differently: `old` in its file, `new` in the output."""

    old: str
    new: str


def renamed(names: Iterable[str], wanted: Collection[str]) -> list[Renaming]:
    """Returns how to rename tensors of one model so that they get the names `wanted` of another model.

    Names that both have are left alone, and so is every name that could mean several tensors.
    """
    held = list(names)
    have = set(held)
    targets = by_canonical(name for name in wanted if name not in have)
    mine = by_canonical(name for name in held if name not in wanted)
    return [Renaming(name, targets[key]) for key, name in mine.items() if key in targets]


def like_others(changes: Collection[Renaming], names: Iterable[str]) -> dict[str, str]:
    """Returns new names for decoder layers that only this model has, with the prefix that its other layers get."""
    prefixes = {}
    for old, new in changes:
        if classify(old).layer is not None and classify(new).layer is not None:
            one, two = (_LAYERS.split(name, maxsplit=1)[0] for name in (old, new))
            prefixes[one] = two
    found = {}
    for name in names:
        start = _LAYERS.split(name, maxsplit=1)[0]
        if start in prefixes and classify(name).layer is not None:
            found[name] = prefixes[start] + name[len(start) :]
    return found


def by_canonical(names: Iterable[str]) -> dict[str, str]:
    """Returns names by their canonical spelling, without those that share it with another name."""
    found: dict[str, str] = {}
    twice = set()
    for name in names:
        key = canonical(name)
        if key in found:
            twice.add(key)
        found[key] = name
    return {key: name for key, name in found.items() if key not in twice}


def summary(changes: Collection[Renaming]) -> str:
    """Returns the prefixes that differ, for a note: "model.visual. for visual., model.language_model. for model."."""
    pairs = list(dict.fromkeys(_prefixes(old, new) for old, new in changes))
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return ", ".join(f"{old} for {new}" for old, new in pairs[:3]) + more


def _prefixes(old: str, new: str) -> tuple[str, str]:
    """Returns two names without the words at their end that are equal; numbers are N, so that all layers count once."""
    one, two = old.split("."), new.split(".")
    equal = 0
    while equal < min(len(one), len(two)) - 1 and one[-1 - equal] == two[-1 - equal]:
        equal += 1
    first, second = (words[: len(words) - equal] for words in (one, two))
    shown = [".".join("N" if word.isdigit() else word for word in words) for words in (first, second)]
    return f"{shown[0]}.", f"{shown[1]}."
