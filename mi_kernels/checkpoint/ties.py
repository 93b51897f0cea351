"""Embeddings and heads: which tensors they are, and whether a model ties them.

A model that ties them uses one tensor as its embedding and as its output projection, the head, and its file usually
stores only the embedding. `config.declared_tied` says what config.json declares; the tensors say what is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..dtypes import CODE_SIZES
from .inputs import Inputs
from .names import classify
from .record import Checkpoint
from .tensor import TensorInfo
from .virtual import Tensor

_HEADS = ("lm_head", "output", "output_layer", "output_projection", "embed_out", "proj_out", "head")
# What the head is called where it is not lm_head, by model_type of transformers.
_NAMES = {
    "whisper": "proj_out",
    "moonshine": "proj_out",
    "moonshine_streaming": "proj_out",
    "biogpt": "output_projection",
    "gpt_neox": "embed_out",
    "gpt_neox_japanese": "embed_out",
}
_BLOCK = 1 << 20  # elements that are compared at a time
# Last words of the names of token embeddings. Position embeddings belong to the module embed too.
_EMBEDDINGS = (
    "embed_tokens",
    "wte",
    "word_embeddings",
    "embed_in",
    "tok_embeddings",
    "shared",
    "embeddings",
    "embedding",
    "embed",
)


def head_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the weight of the head; None if `tensors` has none."""
    for name, tensor in tensors.items():
        words = name.split(".")
        last = words[-2:-1] if words[-3:-1] != ["lm_head", "decoder"] else ["lm_head"]  # RoBERTa's
        named = words[-1] == "weight" and last and last[0] in _HEADS
        if named and len(tensor.shape) == 2 and classify(name).module == "head":
            return name
    return None


def embedding_of(tensors: Mapping[str, Tensor], head: Tensor | None = None) -> str | None:
    """Returns the name of the token embedding; None if there is none.

    Args:
        head: a head that the embedding must have as many columns as, if it is known.
    """
    unplaced = None  # in an architecture whose names `names` does not know, such as an encoder
    for name, tensor in tensors.items():
        fits = len(tensor.shape) == 2 and (head is None or tensor.shape[1] == head.shape[1])
        if fits and name.removesuffix(".weight").split(".")[-1] in _EMBEDDINGS:
            if classify(name).module == "embed":
                return name
            if head is not None and tensor.shape == head.shape:
                unplaced = unplaced or name
    return unplaced


def has_head(config: Mapping[str, Any]) -> bool:
    """Returns whether the class in config.json has an output projection that can be tied; True if it names none."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else "ForCausalLM"
    return name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForImageTextToText"))


def head_name(embedding: str, config: Mapping[str, Any], head: str | None = None) -> str:
    """Returns the name that a head gets in a model that stores only its embedding, called `embedding`.

    Args:
        config: config.json of the model.
        head: the name of the head elsewhere, if it is known: in another model, or in an adapter.

    Example:
        >>> from mi_kernels.checkpoint.ties import head_name
        >>> head_name("model.embed_tokens.weight", {}), head_name("language_model.model.embed_tokens.weight", {})
        ('lm_head.weight', 'language_model.lm_head.weight')
        >>> head_name("model.decoder.embed_tokens.weight", {"model_type": "whisper"})
        'proj_out.weight'
    """
    kind = config.get("model_type")
    last = head if head is not None else f"{_NAMES.get(kind, 'lm_head') if isinstance(kind, str) else 'lm_head'}.weight"
    last = last.removeprefix("language_model.").removeprefix("thinker.").removeprefix("model.")
    for container, start in (("language_model.", "language_model.model."), ("thinker.", "thinker.")):
        if embedding.startswith(start):
            return container + last
    return last


def same_values(model: Checkpoint, one: Tensor, two: Tensor) -> bool:
    """Returns whether two tensors of `model` have the same bits. Stops at the first difference.

    Raises:
        CheckpointError: a file cannot be read.
    """
    if one == two or (isinstance(one, TensorInfo) and isinstance(two, TensorInfo) and one[1:] == two[1:]):
        return True
    if one.shape != two.shape:
        return False
    from .. import _cpu

    with Inputs([model.files]) as inputs:
        for tensor in (one, two):
            inputs.check_length(0, tensor)
        for first in range(0, one.elements, _BLOCK):
            count = min(_BLOCK, one.elements - first)
            a, b = (inputs.operand(0, tensor, first, count) for tensor in (one, two))
            nbytes = count * CODE_SIZES[a.dtype]
            same = a.dtype == b.dtype and _cpu.same_bytes(a.buffer, a.offset, b.buffer, b.offset, nbytes)
            inputs.check()
            if not same:
                return False
    return True
