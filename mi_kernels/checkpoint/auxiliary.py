"""The one table of tensors that one model of a pair may have and the other may lack.

A merge interpolates the tensors that all models have. A tensor that only some have is an error, because it usually
means two architectures or a broken download, except for the kinds below:

    prediction   layers for multi-token prediction. transformers drops them when it loads a model, so a finetune that it
                 saved has none. The merge keeps those of the model that has them.
    tower        vision and audio towers and their projectors. A finetune of the text decoder alone has none. The merge
                 keeps those of the model that has them, if the other model has no tower at all.
    buffer       values that every loader computes again: rotary frequencies, causal masks, position ids. The merge
                 leaves them out where the models do not agree, as loaders ignore them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from .config import decoder_layers
from .names import classify
from .record import Checkpoint
from .spelling import canonical
from .virtual import Tensor

PREDICTION, TOWER, BUFFER = "prediction", "tower", "buffer"


class Kind(NamedTuple):
    """A kind of tensors: its name in notes, and why one model may lack them."""

    plural: str
    why: str


KINDS = {
    PREDICTION: Kind("layers for multi-token prediction", "transformers drops them when it loads a model"),
    TOWER: Kind("vision or audio towers", "a model of the text decoder alone has none"),
    BUFFER: Kind("buffers", "loaders compute them again"),
}


class _Pattern(NamedTuple):
    """Matches canonical names (see `spelling`). `models`: an example of the architectures with such tensors."""

    kind: str
    pattern: re.Pattern[str]
    models: str


def _of(kind: str, models: str, pattern: str) -> _Pattern:
    return _Pattern(kind, re.compile(pattern), models)


_TABLE = (
    _of(
        PREDICTION, "Qwen3-Next, Nemotron-H, LongCat (mtp), MiMo (mtp_layers), Ernie 4.5", r"^(?:mtp|nextn)(?:_\w+)?\."
    ),
    _of(
        BUFFER,
        "Llama and all with rotary embeddings",
        r"(?:^|\.)rotary_\w*emb\w*\.(?:\w*inv_freq|\w*cos\w*|\w*sin\w*)$",
    ),
    _of(BUFFER, "Llama in its original format, ChatGLM", r"(?:^|\.)(?:rope\.freqs|\w*inv_freq|freqs_cis)$"),
    _of(
        BUFFER,
        "GPT-2, GPT-Neo, GPT-J, GPT-NeoX",
        r"\.\w*(?:attn|attention)\.(?:attention\.)?(?:masked_bias|causal_mask)$",
    ),
    _of(BUFFER, "BERT, CLIP, SigLIP", r"(?:^|\.)(?:position_ids|token_type_ids)$"),
    _of(BUFFER, "OPT, MPT, Falcon", r"(?:^|\.)(?:causal_mask|attn_mask|attention_mask|alibi|slopes)$"),
    _of(TOWER, "Qwen-VL, Qwen-Omni, GLM-V", r"^(?:visual|audio|talker|token2wav|code2wav|code_predictor)\."),
    _of(TOWER, "LLaVA, Gemma 3, Mistral 3, Llama 4, Mllama", r"^(?:vision|audio|image|video|speech|vit|vq)\w*(?:\.|$)"),
    _of(TOWER, "LLaVA, InternVL, Idefics, Phi-4", r"^(?:\w*projector|connector|merger|resampler|perceiver\w*)\."),
    _of(TOWER, "InternVL (mlp1), MiniCPM-V (vpm, apm, tts), DeepSeek-VL, Ovis", r"^(?:mlp1|vpm|apm|tts|aligner|vte)\."),
    _of(TOWER, "Ovis, Mistral in its own format", r"^(?:visual_tokenizer|patch_merger|pre_mm_projector_norm)\."),
    _of(TOWER, "Gemma 3n, Gemma 4, Phi-4 multimodal", r"^embed_(?:vision|audio|image)\w*\."),
    _of(TOWER, "Phi-4 multimodal", r"^embed_tokens_extend\."),
)

_LONGEST = 500  # characters: names are untrusted, and the patterns backtrack
# The causal mask of GPT-2 and GPT-NeoX has the name of a bias. A mask is [1, 1, n, n], a bias has one dimension.
_MASK = re.compile(r"\.\w*(?:attn|attention)\.(?:attention\.)?bias$")


def kind_of(name: str, tensor: Tensor, predicting: Collection[int]) -> str | None:
    """Returns the kind of a tensor: "prediction", "tower", "buffer", or None for a tensor of the model itself.

    Args:
        tensor: the tensor, whose shape separates masks from biases.
        predicting: the result of `prediction_layers` for its model.
    """
    text = canonical(name)
    if len(text) > _LONGEST:
        return None
    for kind, pattern, _ in _TABLE:
        if pattern.search(text):
            return kind
    if _MASK.search(text) and len(tensor.shape) == 4:
        return BUFFER
    return PREDICTION if classify(name).layer in predicting else None


def tower_of(name: str) -> str | None:
    """Returns "vision" or "audio" for a tensor of such a tower, and None for every other tensor."""
    text = canonical(name)
    if len(text) > _LONGEST or not any(pattern.search(text) for kind, pattern, _ in _TABLE if kind == TOWER):
        return None
    return "audio" if re.match(r"(?:embed_)?(?:audio|speech)|talker|token2wav|code", text) else "vision"


def prediction_layers(model: Checkpoint) -> set[int]:
    """Returns the numbers of the layers for multi-token prediction that are stored like decoder layers.

    DeepSeek-V3, GLM-4.5, Kimi-K2 and others store them after the last decoder layer, with the same names. Their tensor
    eh_proj identifies them, and so does a number that is not below the number of layers in config.json.
    """
    depth = decoder_layers(model.config)
    found = set()
    for name in model.tensors:
        layer = classify(name).layer
        if layer is not None and (".eh_proj." in name or (depth is not None and layer >= depth)):
            found.add(layer)
    return found
