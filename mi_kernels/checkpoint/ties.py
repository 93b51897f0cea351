"""Embeddings and heads: which tensors they are, and whether a model ties them.

A model that ties them uses one tensor as its embedding and as its output projection, the head, and its file usually
stores only the embedding. config.json declares it as tie_word_embeddings. If the key is missing, the default of the
config class applies: in transformers a class ties unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..dtypes import CODE_SIZES
from .inputs import Inputs
from .names import classify
from .record import Checkpoint, text_config
from .tensor import TensorInfo
from .virtual import Tensor

_KEY = "tie_word_embeddings"
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

# model_type of the classes in transformers 5.24 that do not tie by default. A test compares the list with the library.
UNTIED_BY_DEFAULT = frozenset(
    """
    afmoe apertus apertus1p5 apertus1p5_text arcee aria aria_text axk1 axk2 bailing_hybrid bamba beam bitnet blt
    blt_global_transformer blt_local_decoder blt_local_encoder blt_patcher bridgetower chameleon codegen cohere_asr
    cohere_compass cosmos3_edge cosmos3_edge_text cosmos3_omni cwm dbrx deepseek_ocr2 deepseek_ocr2_encoder
    deepseek_ocr2_text deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama doge dory dots1 dots3_note
    dots3_note_text emu3 emu3_text_model esmc eurobert evolla exaone exaone4 exaone4_5 exaone_moe falcon_h1 fast_vlm
    flex_olmo flint fsmt fuyu git glm glm4 glm46v glm4_moe glm4_moe_lite glm4v glm4v_moe glm4v_moe_text glm5_next
    glm5_next_text glm_image glm_moe_dsa glm_ocr glmga gpt_neox gpt_oss gptj granite granite4_vision
    granite4_vision_text granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium higgs_audio_v2 hrm_text
    hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hy_v4_vl hy_v4_vl_text hyperclovax idefics idefics2 idefics3
    imagegpt internlm3 iquestcoder jais2 jamba kimi_linear kolibri1 kyutai_speech_to_text laguna llama llama4
    llama4_text llava llava_next llava_next_video llava_onevision longcat_flash mamba2 mellum mimo_v2_flash
    minicpmv4_6 minicpmv4_7 minimax minimax_m2 minimax_m3_vl minimax_m3_vl_text ministral ministral3 mistral
    mistral4 mistral_large4 mistral_large4_text mixtral mllama_text_model modernvbert molmo2 molmo2_text
    moonshine_streaming moshi moshi_depth muse_glimmer_text muse_spark_text musicgen_decoder musicgen_melody_decoder
    nanochat nemotron nemotron_h neucodec olmo olmo2 olmo3 olmo_hybrid olmoe openai_privacy_filter perception_lm
    persimmon phi phi3 phi4_multimodal phimoe pix2struct pix2struct_text_model pp_formulanet_text qianfan_ocr qwen2
    qwen2_5_omni_talker qwen2_5_omni_thinker qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe
    qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_omni_moe_talker_code_predictor
    qwen3_omni_moe_talker_text qwen3_omni_moe_thinker qwen3_vl qwen3_vl_moe qwen4_exp qwen4_exp_text reformer
    rembert rwkv sarvam_mla sarvam_moe seed_oss smolvlm solar_open stablelm step3p5 ultrabert ultravbert
    unlimited_ocr unlimited_ocr_text vibevoice video_llama_3 video_llava vipllava xcodec2 xlstm
    """.split()
)


def declared_tied(config: Mapping[str, Any]) -> bool:
    """Returns whether config.json, or the default of its class, ties the head to the embedding.

    Without config.json nothing is declared, and the result is False.

    Example:
        >>> from mi_kernels.checkpoint.ties import declared_tied
        >>> declared_tied({"model_type": "gemma2"}), declared_tied({"model_type": "llama"}), declared_tied({})
        (True, False, False)
    """
    parts = [part for part in (config, text_config(config)) if part]
    for part in parts:
        if part.get(_KEY) is not None:
            return bool(part[_KEY])
    kinds = [part["model_type"] for part in parts if isinstance(part.get("model_type"), str)]
    return bool(kinds) and not any(kind in UNTIED_BY_DEFAULT for kind in kinds)


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
