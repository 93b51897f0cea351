"""Embeddings and heads: which tensors they are, and whether a model ties them.

A model that ties them uses one tensor as its embedding and as its output projection, the head, and its file usually
stores only the embedding. `config.declared_tied` says what config.json declares; the tensors say what is true.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..dtypes import CODE_SIZES
from .inputs import Inputs
from .names import classify
from .record import Checkpoint
from .tensor import TensorInfo
from .virtual import Tensor

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
    # A head is outside the layers and near the end or the start of the file: names are cheap to classify.
    names = (name for name in tensors if name.endswith(".weight") and classify(name).module == "head")
    return next((name for name in names if len(tensors[name].shape) == 2), None)


def embedding_of(tensors: Mapping[str, Tensor], head: Tensor | None = None) -> str | None:
    """Returns the name of the token embedding; None if there is none.

    Args:
        head: a head that the embedding must have the shape of, if it is known.
    """
    found = None
    for name, tensor in tensors.items():
        if len(tensor.shape) != 2 or classify(name).module != "embed":
            continue
        words = name.removesuffix(".weight").split(".")
        if words[-1] in _EMBEDDINGS and (head is None or tensor.shape[1] == head.shape[1]):
            found = found or name
    return found


def head_name(embedding: str) -> str:
    """Returns the name that a head gets in a model that stores only its embedding, called `embedding`.

    Example:
        >>> from mi_kernels.checkpoint.ties import head_name
        >>> head_name("model.embed_tokens.weight"), head_name("language_model.model.embed_tokens.weight")
        ('lm_head.weight', 'language_model.lm_head.weight')
    """
    prefix = "language_model.model."
    if embedding.startswith(prefix):
        return "language_model.lm_head.weight"
    return "thinker.lm_head.weight" if embedding.startswith("thinker.") else "lm_head.weight"


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
